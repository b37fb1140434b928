// The page while streams change, grow large, and while the server goes away.

import { describe, expect, onTestFinished, test } from "vitest";
import { eventually } from "../harness/http.mjs";
import { startServer, scratchDirectory, shell } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";
import { Admin, modes, patience, rows, untilListed, useAdmin } from "./admin.mjs";

const admin = useAdmin();

test("the list of streams follows creations and deletions", async () => {
  const name = freshName("live");
  const page = await admin.open("/admin");
  const link = page.getByRole("navigation", { name: "Live list" }).getByRole("link", { name });
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await admin.create("text/plain", undefined, name);
  await link.waitFor();
  await admin.send("DELETE", name);
  await link.waitFor({ state: "detached" });
});

test("the registry is followed from its end, and not downloaded", async () => {
  const name = await admin.create();
  // A later event would move the registry's end.
  await eventually("the registry has the stream", async () => {
    const events = await admin.messages("__registry__").catch(() => []);
    return events.some(({ key }) => key === name);
  });
  const page = await admin.open("/admin/none");
  const reads = [];
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.pathname === "/v1/stream/__registry__") reads.push(url.searchParams.get("offset"));
  });
  // The page that is opened first may read late.
  page.on("framenavigated", () => {
    reads.length = 0;
  });
  await page.reload();
  await expect.poll(() => reads.filter((offset) => offset !== null).length, patience).toBe(1);
  const tail = (await admin.send("HEAD", "__registry__")).offset;
  expect(reads.filter((offset) => offset !== null)).toEqual([tail]);
});

test("the title of a stream's page and its figures follow the stream", async () => {
  const name = await admin.create("application/json", "[1]");
  const page = await admin.open(`/admin/streams/${name}`);
  const messages = page.locator(".facts .stat").first().locator(".figure");
  await expect.poll(() => messages.textContent(), patience).toBe("1");
  expect(await page.title()).toContain(name);
  await admin.append(name, "[2,3]");
  await expect.poll(() => messages.textContent(), patience).toBe("3");
  await page.getByRole("img", { name: "3 messages in the last 60 minutes" }).waitFor();
  await page.getByText("Live readers").waitFor();
  const readers = page.locator(".facts .stat").nth(4).locator(".figure");
  await expect.poll(() => readers.textContent(), patience).toBe("1");
});

test("an append whose answer is lost is stored once", async () => {
  const name = await admin.create();
  const page = await admin.open(`/admin/streams/${name}`);
  let lost = 0;
  await page.route("**/append", async (route) => {
    lost += 1;
    if (lost > 2) return route.continue();
    // The server stores it, but the page does not learn that.
    await route.fetch();
    return route.abort();
  });
  await page.getByLabel("Message to append").fill('"once"');
  await page.getByLabel("Message to append").press("Enter");
  await page.getByText("Stored before; not stored again.").waitFor();
  expect(lost).toBe(3);
  expect(await admin.messages(name)).toEqual(["once"]);
  // The browser logs requests that were cut off.
  admin.problems.splice(0);
});

test("an append that never gets an answer can be sent again", async () => {
  const name = await admin.create();
  const page = await admin.open(`/admin/streams/${name}`);
  await page.route("**/append", (route) => route.abort());
  await page.getByLabel("Message to append").fill('"later"');
  await page.getByLabel("Message to append").press("Enter");
  await page.getByRole("button", { name: "Send again" }).waitFor();
  await page.getByText("Sending again is safe.").waitFor();
  await page.unroute("**/append");
  await page.getByRole("button", { name: "Send again" }).click();
  await untilListed(page, '"later"');
  expect(await admin.messages(name)).toEqual(["later"]);
  admin.problems.splice(0);
});

test("another session with the same producer is overtaken by the next epoch", async () => {
  const name = await admin.create();
  const page = await admin.open(`/admin/streams/${name}`);
  const id = await page.locator(".producer code").textContent();
  const producer = { "Producer-Id": id, "Producer-Epoch": "0", "Producer-Seq": "0" };
  await admin.append(name, "1", "application/json", producer);
  await admin.append(name, "2", "application/json", { ...producer, "Producer-Epoch": "3" });
  await page.getByLabel("Message to append").fill("3");
  await page.getByLabel("Message to append").press("Enter");
  await page.getByText("epoch 4, next number 1").waitFor();
  expect(await admin.messages(name)).toEqual([1, 2, 3]);
});

test("viewers see each other and who is typing, if they want to", async () => {
  const name = await admin.create();
  const path = `/admin/streams/${name}`;
  const [one, two] = [await admin.open(path), await admin.open(path)];
  for (const page of [one, two]) await page.getByLabel("Show who is here").check();
  const entry = (page) => page.locator(".stream-nav li").filter({ hasText: name });
  await entry(one).getByText("1 other viewer").waitFor();
  await entry(two).getByText("1 other viewer").waitFor();
  await one.getByLabel("Message to append").pressSequentially("[1");
  await two.getByText("Somebody is typing…").waitFor();
  await two.getByText("Somebody is typing…").waitFor({ state: "detached" });
  expect((await admin.send("HEAD", "__presence__")).headers["stream-expires-at"]).toBeDefined();

  // Anybody can write there, and anything.
  await admin.append("__presence__", JSON.stringify([null, 7, "x", {}, { sessionId: 1 }]));
  await one.getByLabel("Show who is here").uncheck();
  expect(await entry(one).locator(".viewers").count()).toBe(0);
  const kept = await one.evaluate(() => localStorage.length);
  expect(kept).toBe(0);
});

describe("a stream of 100,000 messages", () => {
  const total = 100_000;
  const batch = 10_000;

  test("stays smooth, and few rows are in the document", async () => {
    const name = await admin.create();
    for (let first = 0; first < total; first += batch) {
      const messages = Array.from({ length: batch }, (_, index) => ({ n: first + index }));
      await admin.append(name, JSON.stringify(messages));
    }
    const page = await admin.open(`/admin/streams/${name}`);
    await untilListed(page, `{"n":${total - 1}}`);
    await page.getByRole("button", { name: "Start", exact: true }).click();
    await untilListed(page, '{"n":0}');

    // Scrolls as fast as the page lets, and measures each frame.
    const measured = await page.evaluate(async (total) => {
      const list = document.querySelector("[role=listbox]");
      let most = 0;
      const frames = [];
      const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
      const hasLast = () =>
        [...list.querySelectorAll("[role=option]")].some(({ textContent }) =>
          textContent.includes(`{"n":${total - 1}}`),
        );
      let before = await frame();
      const deadline = performance.now() + 45_000;
      while (!hasLast() && performance.now() < deadline) {
        list.scrollTop += 20_000;
        const now = await frame();
        frames.push(now - before);
        before = now;
        most = Math.max(most, list.querySelectorAll("[role=option]").length);
      }
      frames.sort((a, b) => a - b);
      return { most, hasLast: hasLast(), median: frames[Math.floor(frames.length / 2)] };
    }, total);
    expect(measured.hasLast).toBe(true);
    expect(measured.most).toBeLessThan(100);
    expect(measured.median).toBeLessThan(400);
    const elements = await page.evaluate(() => document.querySelectorAll("*").length);
    expect(elements).toBeLessThan(1_500);
    const newest = (await rows(page)).at(-1);
    expect(newest).toContain(`{"n":${total - 1}}`);
    expect(newest).toContain("99999");
  });
});

test("the page goes on after a restart of the server, without a gap or a double", async () => {
  const dataDirectory = await scratchDirectory("page");
  const options = {
    dataDirectory,
    cold: /** @type {any} */ (shell === "server" ? "directory" : true),
    env: shell === "server" ? {} : { ADMIN_OPEN: 1 },
  };
  let server = await startServer(options);
  onTestFinished(() => server.stop());
  const own = new Admin(admin.browser, server, modes["without a token"]);
  const name = await own.create("application/json", '["before"]');
  const page = await own.open(`/admin/streams/${name}`);
  await untilListed(page, '"before"');
  await server.kill();
  await page.getByText("reconnecting").waitFor();
  server = await startServer({ ...options, port: server.port });
  own.server = server;
  await own.append(name, '["after"]');
  await untilListed(page, '"after"');
  expect((await rows(page)).map((row) => row.replace(/^\d+_\d+/, ""))).toEqual([
    '"before"',
    '"after"',
  ]);
  await page.getByText("live", { exact: true }).first().waitFor();
  await expect.poll(() => page.getByRole("alert").count(), patience).toBe(0);
});
