// A plain EventSource in Chromium. It does not know the protocol, and reconnects with the last `id`
// that it has seen.

import http from "node:http";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { openChromium } from "../harness/chromium.mjs";
import { sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";
import { foreignUrl } from "../harness/target.mjs";

// Chromium waits three seconds before it reconnects.
const sseAgeMs = 1_000;

/** Runs in the page. Collects the events of an EventSource until it gives up. */
function follow(url) {
  const seen = { events: [], opened: 0, given_up: false };
  globalThis.seen = seen;
  const source = new EventSource(url);
  source.onopen = () => (seen.opened += 1);
  source.onerror = () => (seen.given_up = source.readyState === EventSource.CLOSED);
  for (const type of ["data", "control"]) {
    source.addEventListener(type, ({ data, lastEventId }) =>
      seen.events.push({ type, data, lastEventId }),
    );
  }
}

describe.skipIf(foreignUrl)("a plain EventSource", () => {
  let server;
  let origin;
  let browser;

  beforeAll(async () => {
    server = await startServer({ env: { SSE_MAX_AGE_MS: sseAgeMs } });
    // The page has another origin than the streams.
    origin = http.createServer((_, response) =>
      response.setHeader("Content-Type", "text/html").end("<!doctype html><title>page</title>"),
    );
    await new Promise((resolve) => origin.listen(0, "127.0.0.1", resolve));
    browser = await openChromium();
  });

  afterAll(async () => {
    await browser?.close();
    origin?.close();
    await server?.stop();
  });

  async function open(url) {
    const page = await browser.newPage();
    onTestFinished(() => page.close());
    await page.goto(`http://127.0.0.1:${origin.address().port}/`);
    await page.evaluate(follow, url);
    return page;
  }

  const seenBy = (page) => page.evaluate(() => globalThis.seen);

  test.each(["text/plain", "application/json"])(
    "reads a %s stream over many responses without gap or duplicate, and stops at its end",
    async (contentType) => {
      const json = contentType === "application/json";
      const stream = await Stream.create(server.url, { contentType });
      const page = await open(`${stream.url}?offset=-1&live=sse`);
      const written = [];
      for (let index = 0; index < 30; index += 1) {
        const message = json ? JSON.stringify({ index }) : `message ${index}\n`;
        written.push(message);
        // Closes with the last message, so that every reader has to reconnect for it.
        const headers = index === 29 ? { "Stream-Closed": "true" } : {};
        expect((await stream.append(message, headers)).status).toBe(204);
        await sleep(300);
      }
      await page.waitForFunction(() => globalThis.seen.given_up, null, { timeout: 20_000 });
      const { events, opened } = await seenBy(page);
      const data = events.filter(({ type }) => type === "data");
      const controls = events.filter(({ type }) => type === "control");
      const read = json
        ? data.flatMap((event) => JSON.parse(event.data)).map((message) => JSON.stringify(message))
        : data.map((event) => event.data);
      expect(json ? read : read.join("")).toEqual(json ? written : written.join(""));
      expect(opened, "it had to connect again").toBeGreaterThanOrEqual(3);
      for (const control of controls)
        expect(control.lastEventId).toBe(JSON.parse(control.data).streamNextOffset);
      expect(JSON.parse(controls.at(-1).data).streamClosed).toBe(true);
      // The browser does not reconnect.
      const count = events.length;
      await sleep(4_000);
      expect((await seenBy(page)).events.length).toBe(count);
    },
    60_000,
  );

  test("a stream that is closed while the browser is disconnected also stops it", async () => {
    const stream = await Stream.create(server.url, { body: "a" });
    const page = await open(`${stream.url}?offset=-1&live=sse`);
    await page.waitForFunction(() => globalThis.seen.events.length >= 2);
    // The response has reached its maximum age, and the browser waits to reconnect.
    await sleep(sseAgeMs + 1_000);
    await stream.close();
    await page.waitForFunction(() => globalThis.seen.given_up, null, { timeout: 10_000 });
    const { events } = await seenBy(page);
    expect(events.filter(({ type }) => type === "data").map(({ data }) => data)).toEqual(["a"]);
  });

  test("the browser gives up a deleted stream", async () => {
    const stream = await Stream.create(server.url, { body: "a" });
    const page = await open(`${stream.url}?offset=-1&live=sse`);
    await page.waitForFunction(() => globalThis.seen.events.length >= 2);
    await stream.delete();
    await page.waitForFunction(() => globalThis.seen.given_up, null, { timeout: 10_000 });
  });
});
