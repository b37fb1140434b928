// Pages of the server in Chromium, and what went wrong in them.

import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { openChromium } from "./chromium.mjs";

/**
 * @typedef {object} PageOptions
 * @property {{ width: number, height: number }} [viewport]
 * @property {"light" | "dark"} [colorScheme]
 * @property {Record<string, string>} [sessionStorage] What the session storage begins with.
 */

/** A browser, and the pages that a test opens in it. */
export class Browser {
  /** @type {import("playwright-core").Browser} */
  #browser;
  /** @type {import("playwright-core").BrowserContext[]} */
  #contexts = [];

  /** @param {import("playwright-core").Browser} browser */
  constructor(browser) {
    this.#browser = browser;
  }

  static async start() {
    const browser = /** @type {import("playwright-core").Browser} */ (await openChromium());
    return new Browser(browser);
  }

  /**
   * Opens a page in a context of its own. `problems` collects errors of its scripts and its
   * console, except for answers with a status of failure, which the browser itself logs.
   *
   * @param {string} url
   * @param {PageOptions} [options]
   */
  async open(url, { viewport, colorScheme = "light", sessionStorage = {} } = {}) {
    const context = await this.#browser.newContext({
      viewport: viewport ?? { width: 1280, height: 860 },
      colorScheme,
    });
    this.#contexts.push(context);
    await context.addInitScript((entries) => {
      for (const [key, value] of Object.entries(entries)) {
        if (globalThis.sessionStorage.getItem(key) === null) {
          globalThis.sessionStorage.setItem(key, value);
        }
      }
    }, sessionStorage);
    const page = await context.newPage();
    /** @type {string[]} */
    const problems = [];
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => {
      const text = message.text();
      if (message.type() === "error" && !text.startsWith("Failed to load resource")) {
        problems.push(text);
      }
    });
    await page.goto(url);
    return { page, problems };
  }

  /** Closes all pages that are open. */
  async closePages() {
    const contexts = this.#contexts.splice(0);
    await Promise.all(contexts.map((context) => context.close()));
  }

  async close() {
    await this.#browser.close();
  }
}

let axe;

/**
 * Returns what axe-core finds wrong with a page: one line for each rule that is broken.
 *
 * @param {import("playwright-core").Page} page
 */
export async function accessibilityProblems(page) {
  axe ??= await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => /** @type {any} */ (globalThis).axe.run());
  return violations.flatMap(({ id, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`),
  );
}
