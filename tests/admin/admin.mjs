// The admin page as its tests use it: a server with the page, and short names for what a user does.

import { afterAll, afterEach, beforeAll, expect } from "vitest";
import { Browser } from "../harness/browser.mjs";
import { request } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";

/** A way to protect the server, and what the page's session storage then holds. */
export const modes = {
  "without a token": { env: {}, session: {}, headers: {} },
  "with tokens": {
    env: { ADMIN_TOKEN: "operator", AUTH_TOKEN: "writer" },
    session: {
      "durable-streams/admin-token": "operator",
      "durable-streams/stream-token": "writer",
    },
    headers: { Authorization: "Bearer writer" },
  },
};

/** How long a user waits for what the page shows. */
export const patience = { timeout: 45_000 };

export class Admin {
  /**
   * @param {Browser} browser
   * @param {any} server
   * @param {typeof modes["with tokens"]} mode
   */
  constructor(browser, server, mode) {
    this.browser = browser;
    this.server = server;
    this.mode = mode;
    /** @type {string[][]} */
    this.problems = [];
  }

  /**
   * Opens a path of the page.
   *
   * @param {string} path
   * @param {import("../harness/browser.mjs").PageOptions} [options]
   */
  async open(path, options = {}) {
    const url = this.server.url + path;
    const sessionStorage = { ...this.mode.session, ...options.sessionStorage };
    const { page, problems } = await this.browser.open(url, { ...options, sessionStorage });
    page.setDefaultTimeout(patience.timeout);
    this.problems.push(problems);
    return page;
  }

  /** Sends a request of a client of streams, which must succeed. */
  async send(method, name, { body, headers = {}, query = "" } = {}) {
    const answer = await request(this.server.url, `/v1/stream/${name}${query}`, {
      method,
      headers: { ...this.mode.headers, ...headers },
      body,
    });
    if (answer.status >= 300) throw new Error(`${method} ${name}: ${answer.status} ${answer.text}`);
    return answer;
  }

  /** Creates a stream with a new name. */
  async create(contentType = "application/json", body = undefined, name = freshName("page")) {
    await this.send("PUT", name, { headers: { "Content-Type": contentType }, body });
    return name;
  }

  /** Creates a session that follows these streams from their beginning, and returns its id. */
  async createSession(...streams) {
    const ask = async (path, body) => {
      const answer = await request(this.server.url, path, {
        method: "POST",
        headers: { ...this.mode.headers, "Content-Type": "application/json" },
        body: body && JSON.stringify(body),
      });
      if (answer.status >= 300) throw new Error(`${path}: ${answer.status} ${answer.text}`);
      return answer;
    };
    const { sessionId } = (await ask("/v1/sessions")).json();
    for (const streamId of streams) {
      await ask("/v1/subscriptions", { sessionId, streamId, from: "-1" });
    }
    return sessionId;
  }

  append(name, body, contentType = "application/json", headers = {}) {
    return this.send("POST", name, { headers: { "Content-Type": contentType, ...headers }, body });
  }

  async messages(name) {
    return (await this.send("GET", name, { query: "?offset=-1" })).json();
  }
}

/**
 * Starts a server and a browser for the tests of a group, and ends them after it. No test may leave
 * an error in the console.
 *
 * @param {typeof modes["with tokens"]} mode
 * @param {object} [env]
 */
export function useAdmin(mode = modes["without a token"], env = {}) {
  const admin = new Admin(/** @type {any} */ (undefined), /** @type {any} */ (undefined), mode);
  beforeAll(async () => {
    admin.server = await startServer({
      // The Worker's list of streams comes from the index beside its cold tier.
      cold: shell === "server" ? "directory" : true,
      env: { ...(shell === "server" ? {} : { ADMIN_OPEN: 1 }), ...mode.env, ...env },
    });
    admin.browser = await Browser.start();
  });
  afterEach(async () => {
    const problems = admin.problems.splice(0).flat();
    await admin.browser.closePages();
    expect(problems).toEqual([]);
  });
  afterAll(async () => {
    await admin.browser?.close();
    await admin.server?.stop();
  });
  return admin;
}

/** The rows of the message list, as text. */
export function rows(page) {
  return page.getByRole("option").allTextContents();
}

/** Waits until a row of the message list shows exactly this content, beside its offset. */
export async function untilListed(page, content) {
  await page.getByRole("option").getByText(content, { exact: true }).first().waitFor();
}
