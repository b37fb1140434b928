// Appends up to the limit, and tiny pages.

import { createHash, randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startServer } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";
import { foreignUrl, startOrUse } from "../harness/target.mjs";

const mebibyte = 1024 * 1024;
const range = (count) => Array.from({ length: count }, (_, index) => index);
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

describe("with the default limits", () => {
  let server;

  beforeAll(async () => {
    server = await startOrUse();
  });
  afterAll(() => server?.stop());

  test.each([15, 16])("%s MiB of bytes come back byte for byte", async (size) => {
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    await stream.append("before");
    const bytes = randomBytes(size * mebibyte);
    const appended = await stream.append(bytes);
    expect(appended.status).toBe(204);
    await stream.append("after");
    const whole = await stream.bytes();
    expect(digest(whole)).toBe(
      digest(Buffer.concat([Buffer.from("before"), bytes, Buffer.from("after")])),
    );
    expect((await stream.bytes(appended.offset)).toString()).toBe("after");
  });

  test("15 MiB in chunks of an odd size come back byte for byte", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    const bytes = randomBytes(15 * mebibyte);
    const chunks = [];
    for (let start = 0; start < bytes.length; start += 77_777)
      chunks.push(bytes.subarray(start, start + 77_777));
    expect((await stream.append(chunks)).status).toBe(204);
    expect(digest(await stream.bytes())).toBe(digest(bytes));
  });

  test("one JSON message of 15 MiB comes back byte for byte", async () => {
    const stream = await Stream.create(server.url, {
      contentType: "application/json",
      body: '["before"]',
    });
    const message = JSON.stringify({
      filling: randomBytes(15 * mebibyte * 0.7).toString("base64"),
    });
    expect((await stream.append(message, producer("p", 0, 0))).status).toBe(200);
    expect((await stream.append('"after"')).status).toBe(204);
    const inner = (await stream.pages())
      .map((page) => page.text.slice(1, -1))
      .filter((text) => text !== "");
    expect(inner.join(",") === `"before",${message},"after"`).toBe(true);
  });

  test("a JSON batch of 15 MiB comes back message for message", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const messages = range(15_000).map((index) => ({
      index,
      filling: randomBytes(380).toString("hex") + "x".repeat(250),
    }));
    const batch = JSON.stringify(messages);
    expect(batch.length).toBeGreaterThan(15_000_000);
    expect(batch.length).toBeLessThan(16 * mebibyte);
    expect((await stream.append(batch)).status).toBe(204);
    const inner = (await stream.pages())
      .map((page) => page.text.slice(1, -1))
      .filter((text) => text !== "");
    expect(digest(`[${inner.join(",")}]`)).toBe(digest(batch));
  });

  test("a stream of 15 MiB arrives over SSE byte for byte", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    const bytes = randomBytes(15 * mebibyte);
    await stream.append(bytes);
    const tail = (await stream.head()).offset;
    const reader = await stream.events("-1");
    await reader.control(({ streamNextOffset }) => streamNextOffset === tail, {
      timeoutMs: 30_000,
    });
    expect(digest(reader.bytes)).toBe(digest(bytes));
    reader.close();
  });

  test("an append of 15 MiB reaches a waiting reader", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    const reader = await stream.events("-1");
    await reader.upToDate();
    const waiting = stream.longPoll(stream.start);
    const bytes = randomBytes(15 * mebibyte);
    const { offset } = await stream.append(bytes);
    await reader.control(({ streamNextOffset }) => streamNextOffset === offset, {
      timeoutMs: 30_000,
    });
    expect(digest(reader.bytes)).toBe(digest(bytes));
    reader.close();
    const first = await waiting;
    expect(first.status).toBe(200);
    const rest = first.upToDate === "true" ? Buffer.alloc(0) : await stream.bytes(first.offset);
    expect(digest(Buffer.concat([first.body, rest]))).toBe(digest(bytes));
  });

  test("16 MiB and a byte are refused, with a length and chunked, and append nothing", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    expect((await stream.append(undefined, {}, { announced: 16 * mebibyte + 1 })).status).toBe(413);
    expect(
      (await stream.append([...Array(16).fill(Buffer.alloc(mebibyte)), Buffer.alloc(1)])).status,
    ).toBe(413);
    expect((await stream.head()).offset).toBe(stream.start);
    expect((await stream.append("small")).status).toBe(204);
  });
});

describe.skipIf(foreignUrl)("with tiny limits", () => {
  let server;
  const pageBytes = 100;

  beforeAll(async () => {
    // In private mode only live reads have pages.
    server = await startServer({
      env: {
        CACHE_MODE: "shared",
        MAX_CHUNK_BYTES: pageBytes,
        INDEX_STEP_BYTES: 10,
        MAX_APPEND_BYTES: 2_000,
        LONG_POLL_TIMEOUT_MS: 300,
      },
    });
  });
  afterAll(() => server?.stop());

  const sizes = [1, 2, 50, 99, 100, 101, 199, 200, 201, 7, 1_999, 2_000, 3];

  test("pages of bytes end with appends, and exceed the limit by one at most", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    const bodies = sizes.map((size) => randomBytes(size));
    for (const body of bodies) await stream.append(body);
    const whole = Buffer.concat(bodies);
    const pages = await stream.pages();
    expect(Buffer.concat(pages.map((page) => page.body)).equals(whole)).toBe(true);
    const ends = sizes.map((_, index) =>
      sizes.slice(0, index + 1).reduce((sum, size) => sum + size),
    );
    let position = 0;
    for (const page of pages) {
      const begin = position;
      position += page.body.length;
      expect(ends).toContain(position);
      const last = sizes[ends.indexOf(position)];
      expect(position - last - begin).toBeLessThanOrEqual(pageBytes);
      expect((await stream.bytes(page.offset)).equals(whole.subarray(position))).toBe(true);
    }
  });

  // A page of JSON has whole appends. Only a single append that is too large may exceed the limit.
  test.each([1, 10])(
    "pages of JSON have every message of appends of %s once, and as many as fit",
    async (batch) => {
      const stream = await Stream.create(server.url, { contentType: "application/json" });
      const messages = range(200).map((index) => "m".repeat((index * 37) % 150) + index);
      for (let start = 0; start < messages.length; start += batch)
        await stream.append(JSON.stringify(messages.slice(start, start + batch)));
      const pages = await stream.pages();
      const held = pages.map((page) => page.json());
      expect(held.flat()).toEqual(messages);
      for (const page of held.slice(0, -1)) {
        expect(page.length % batch).toBe(0);
        expect(page.length).toBeGreaterThan(0);
        if (page.length > batch)
          expect(
            page.reduce((bytes, message) => bytes + message.length + 2, 0),
          ).toBeLessThanOrEqual(pageBytes);
      }
      let position = 0;
      for (const [index, page] of pages.entries()) {
        position += held[index].length;
        expect(await stream.messages(page.offset)).toEqual(messages.slice(position));
      }
    },
    // With appends of one message there are about 14,000 requests.
    300_000,
  );

  test("long-poll and SSE return the same pages of a stream", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const messages = range(100).map((index) => "m".repeat((index * 37) % 150) + index);
    for (let start = 0; start < messages.length; start += 10)
      await stream.append(JSON.stringify(messages.slice(start, start + 10)));
    const polled = [];
    for (let offset = "-1"; ;) {
      const answer = await stream.longPoll(offset);
      polled.push(...answer.json());
      offset = answer.offset;
      if (answer.upToDate === "true") break;
    }
    expect(polled).toEqual(messages);
    const reader = await stream.events("-1");
    await reader.upToDate();
    expect(reader.messages).toEqual(messages);
    reader.close();
  });

  test("over SSE a character arrives whole, even if a page ends inside it", async () => {
    const stream = await Stream.create(server.url);
    const text = "\u00e9\u4e09\ud83d\ude00 ".repeat(150);
    await stream.append(text.slice(0, 600));
    await stream.append(text.slice(600));
    const reader = await stream.events("-1");
    await reader.upToDate();
    expect(reader.text).toBe(text);
    reader.close();
  });

  test("the append limit can be set, to the byte", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    expect((await stream.append(Buffer.alloc(2_000))).status).toBe(204);
    expect((await stream.append(Buffer.alloc(2_001))).status).toBe(413);
    expect((await stream.append([Buffer.alloc(1_000), Buffer.alloc(1_000)])).status).toBe(204);
    expect((await stream.append([Buffer.alloc(1_000), Buffer.alloc(1_001)])).status).toBe(413);
    expect((await stream.bytes()).length).toBe(4_000);
  });
});
