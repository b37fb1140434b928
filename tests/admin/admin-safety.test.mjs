// Nothing of a stream runs as a script in the admin page, and everybody can use the page.

import { describe, expect, test } from "vitest";
import { accessibilityProblems } from "../harness/browser.mjs";
import { request } from "../harness/http.mjs";
import { freshName } from "../harness/stream.mjs";
import { patience, untilListed, useAdmin } from "./admin.mjs";

const admin = useAdmin();

const image = `<img src=x onerror="document.title='ran'">`;
const attack = `${image}<script>document.title='ran'</script>`;

/** Creates a subscription of this id, which follows the stream of this name. */
const subscribe = (name, description = "") =>
  admin.send("PUT", `__ds/subscriptions/${name}`, {
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ type: "pull-wake", streams: [name], wake_stream: "w", description }),
  });

/** Checks that the page shows hostile text as text. */
async function expectHarmless(page) {
  await page.waitForTimeout(200);
  expect(await page.title()).not.toBe("ran");
  const foreign = await page.evaluate(
    () => document.querySelectorAll("main img, main script, main iframe, header img").length,
  );
  expect(foreign).toBe(0);
}

describe("hostile text stays text", () => {
  test("in names", async () => {
    const name = `${freshName("x")}/${encodeURIComponent(image)}`;
    await admin.create("application/json", "[1]", name);
    const page = await admin.open("/admin/streams");
    await page.getByRole("main").getByText(image).first().waitFor();
    await expectHarmless(page);
    await page.getByRole("main").getByRole("link", { name: image }).first().click();
    await page.getByRole("heading", { level: 1 }).getByText(image).waitFor();
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await page.getByRole("dialog").getByText(image).waitFor();
    await expectHarmless(page);
  });

  test("in content types and producers", async () => {
    const name = freshName("x");
    const contentType = `text/html; title="${attack.replaceAll('"', "'")}"`;
    await admin.send("PUT", name, { headers: { "Content-Type": contentType } });
    await admin.append(name, attack, contentType, {
      "Producer-Id": attack,
      "Producer-Epoch": "0",
      "Producer-Seq": "0",
    });
    const page = await admin.open(`/admin/streams/${name}`);
    await untilListed(page, attack);
    await page.getByText(contentType).first().waitFor();
    await page.getByRole("link", { name: "Producers" }).click();
    await page.getByRole("cell", { name: attack }).waitFor();
    await expectHarmless(page);
  });

  test("in messages, as a row, as a tree and as sent", async () => {
    const name = await admin.create("application/json", JSON.stringify([{ [attack]: attack }]));
    const page = await admin.open(`/admin/streams/${name}`);
    await page.getByRole("option").first().click();
    const detail = page.getByLabel("Selected message");
    await detail.locator(".string").getByText(attack).waitFor();
    await expectHarmless(page);
    await detail.getByRole("button", { name: "As sent" }).click();
    await expectHarmless(page);
    await page.getByRole("button", { name: "Copy as curl from here" }).click();
    await expectHarmless(page);
  });

  test("in subscriptions", async () => {
    const id = encodeURIComponent(`${freshName("hostile")}-${image}`);
    await subscribe(id, attack);
    const page = await admin.open("/admin/subscriptions");
    await page.getByRole("main").getByRole("link", { name: image }).first().click();
    await page.getByText(attack).waitFor();
    await expectHarmless(page);
  });

  test("in reasons of the server", async () => {
    const name = await admin.create();
    const page = await admin.open(`/admin/streams/${name}`);
    await page.route("**/append", (route) =>
      route.fulfill({ status: 400, json: { error: { code: "bad_request", message: attack } } }),
    );
    await page.getByLabel("Message to append").fill("1");
    await page.getByLabel("Message to append").press("Enter");
    await page.getByRole("alert").getByText(attack).waitFor();
    await expectHarmless(page);
  });
});

test("a script that is not the page's own is not run", async () => {
  const page = await admin.open("/admin");
  const outcome = await page.evaluate(async () => {
    const script = document.createElement("script");
    try {
      script.text = "document.title = 'ran'";
      document.head.append(script);
    } catch {
      return "refused";
    }
    return document.title === "ran" ? "ran" : "refused";
  });
  expect(outcome).toBe("refused");
  // The browser logs the refusal, too.
  admin.problems.splice(0);
});

describe("the page's files", () => {
  test("have the headers that keep foreign scripts out, and the right life in caches", async () => {
    const index = await request(admin.server.url, "/admin");
    expect(index.status).toBe(200);
    expect(index.headers["cache-control"]).toBe("no-cache");
    const asset = /\/admin\/assets\/main-[A-Z0-9]+\.js/.exec(index.text)?.[0] ?? "";
    const script = await request(admin.server.url, asset);
    expect(script.status).toBe(200);
    expect(script.headers["cache-control"]).toContain("immutable");
    expect(script.headers["content-type"]).toBe("text/javascript; charset=utf-8");
    for (const { headers } of [index, script]) {
      const policy = headers["content-security-policy"];
      expect(policy).toContain("default-src 'none'");
      expect(policy).toContain("script-src 'self';");
      expect(policy).not.toContain("unsafe");
      expect(headers["x-content-type-options"]).toBe("nosniff");
      expect(headers["access-control-allow-origin"]).toBeUndefined();
    }
  });

  test("are only read, and a missing one is not the page", async () => {
    const { url } = admin.server;
    const missing = await request(url, "/admin/assets/main-GONE.js");
    expect(missing.status).toBe(404);
    expect(missing.headers["cache-control"]).toBe("no-store");
    for (const method of ["POST", "PUT", "DELETE"]) {
      const answer = await request(url, "/admin/streams/x", { method });
      expect([method, answer.status]).toEqual([method, 405]);
      expect(answer.headers["cache-control"]).toBe("no-store");
    }
    const head = await request(url, "/admin", { method: "HEAD" });
    expect([head.status, head.body.length]).toEqual([200, 0]);
    const api = await request(url, "/admin/api/nothing");
    expect(api.status).toBe(404);
    expect(api.headers["content-type"]).toContain("json");
    for (const path of ["/admin/streams/a/b.html", "/admin/streams/%2e%2e", "/admin/"]) {
      const answer = await request(url, path);
      expect([path, answer.status]).toEqual([path, 200]);
      expect(answer.text).toContain('<div id="app">');
    }
  });
});

describe.each(["light", "dark"])("axe-core finds nothing wrong in %s colours", (colorScheme) => {
  const options = { colorScheme: /** @type {"light" | "dark"} */ (colorScheme) };

  test.each([
    ["the overview", () => "/admin", "Services"],
    ["the list of streams", () => "/admin/streams", "Content type"],
    ["a stream", (name) => `/admin/streams/${name}`, "hello"],
    ["segments", (name) => `/admin/streams/${name}?tab=segments`, "Stored in the cold tier"],
    ["producers", (name) => `/admin/streams/${name}?tab=producers`, "Last number"],
    ["alarm and outbox", (name) => `/admin/streams/${name}?tab=internals`, "Outbox"],
    ["the list of subscriptions", () => "/admin/subscriptions", "Follows"],
    ["a subscription", (name) => `/admin/subscriptions/${name}`, "up to date"],
    ["a subscription that does not exist", () => "/admin/subscriptions/none", "no subscription"],
    ["the list of sessions", () => "/admin/sessions", "Lives unused"],
    ["a session", (_, session) => `/admin/sessions/${session}`, "follows"],
    ["a session that does not exist", () => "/admin/sessions/none", "There is no session"],
    ["a stream that does not exist", () => "/admin/streams/none", "There is no stream"],
    ["an unknown page", () => "/admin/none", "There is no such page"],
  ])("%s", async (_, path, sign) => {
    const name = await admin.create("application/json", '[{"text":"hello","list":[1,null]}]');
    const producer = { "Producer-Id": "p", "Producer-Epoch": "0", "Producer-Seq": "0" };
    await admin.append(name, "[2]", "application/json", producer);
    await subscribe(name);
    const session = await admin.createSession(name);
    if (path(name).includes("segments")) {
      const seal = `/admin/api/streams/${name}/seal`;
      expect((await request(admin.server.url, seal, { method: "POST" })).status).toBe(200);
    }
    const page = await admin.open(path(name, session), options);
    await page.getByText(sign).first().waitFor();
    if (path(name) === `/admin/streams/${name}`) await page.getByRole("option").first().click();
    expect(await accessibilityProblems(page)).toEqual([]);
  });
});

test.each([
  ["create", "New stream"],
  ["fork", "Fork"],
  ["close", "Close"],
  ["delete", "Delete"],
  ["curl", "Copy as curl"],
  ["tokens", "Enter token"],
])("axe-core finds nothing wrong in the dialog: %s", async (_, button) => {
  const name = await admin.create("application/json", "[1]");
  const page = await admin.open(`/admin/streams/${name}`, { colorScheme: "dark" });
  await page.getByRole("heading", { level: 1, name }).waitFor();
  await page.getByRole("button", { name: button, exact: true }).first().click();
  await page.getByRole("dialog").waitFor();
  expect(await accessibilityProblems(page)).toEqual([]);
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  const focused = () => page.evaluate(() => document.activeElement?.textContent?.trim());
  if (button !== "New stream") await expect.poll(focused, patience).toBe(button);
});

test("axe-core would find something wrong", async () => {
  const page = await admin.open("/admin/none");
  await page.evaluate(() => document.querySelector("main")?.append(document.createElement("img")));
  expect((await accessibilityProblems(page)).join()).toContain("image-alt");
});

describe("on a narrow screen", () => {
  const viewport = { width: 360, height: 740 };

  test.each([
    ["the overview", () => "/admin"],
    ["the list of streams", () => "/admin/streams"],
    ["a stream", (name) => `/admin/streams/${name}`],
    ["segments", (name) => `/admin/streams/${name}?tab=segments`],
    ["alarm and outbox", (name) => `/admin/streams/${name}?tab=internals`],
    ["the list of subscriptions", () => "/admin/subscriptions"],
    ["a subscription", (name) => `/admin/subscriptions/${name}`],
    ["the list of sessions", () => "/admin/sessions"],
    ["a session", (_, session) => `/admin/sessions/${session}`],
  ])("%s does not scroll sideways", async (_, path) => {
    const long = `${freshName("narrow")}-${"long".repeat(30)}`;
    const name = await admin.create("application/json", `["${"x".repeat(3_000)}"]`, long);
    await subscribe(name);
    const session = await admin.createSession(name);
    const page = await admin.open(path(name, session), { viewport });
    await page.getByRole("heading", { level: 1 }).waitFor();
    await page.waitForTimeout(500);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    expect(width).toBeLessThanOrEqual(viewport.width);
    expect(await accessibilityProblems(page)).toEqual([]);
  });

  test("the navigation is a menu", async () => {
    const page = await admin.open("/admin", { viewport });
    const link = page.getByRole("link", { name: "Streams", exact: true });
    expect(await link.isVisible()).toBe(false);
    await page.getByRole("button", { name: "Open menu" }).click();
    expect(await accessibilityProblems(page)).toEqual([]);
    await link.click();
    await page.getByRole("heading", { name: "Streams", level: 1 }).waitFor();
    expect(await link.isVisible()).toBe(false);
  });
});
