// Live reads under faults: readers that come and go, objects that are reset, and a reader that does
// not read.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually, sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";

const range = (count) => Array.from({ length: count }, (_, index) => index);
const between = (least, most) => Math.round(least + Math.random() * (most - least));

let server;

beforeAll(async () => {
  server = await startServer({
    env: { SSE_HEARTBEAT_MS: 500, LONG_POLL_TIMEOUT_MS: 1_000, SSE_MAX_AGE_MS: 60_000 },
  });
});
afterAll(() => server?.stop());

/** Writes `count` messages exactly once, even if the object is reset in between. */
async function write(stream, writer, count) {
  for (const index of range(count)) {
    for (;;) {
      const answer = await stream
        .append(JSON.stringify({ writer, index }), producer(`writer-${writer}`, 0, index))
        .catch(() => undefined);
      if (answer?.status === 200 || answer?.status === 204) break;
      if (answer && answer.status < 500)
        throw new Error(`an append answered ${answer.status}: ${answer.text}`);
      await sleep(20);
    }
    await sleep(between(0, 12));
  }
}

/**
 * Follows a stream with many short reads. Like any client, it keeps the data up to the last control
 * event of a read. The next read returns later data again.
 */
class Follower {
  messages = [];
  offset = "-1";
  reads = 0;
  faults = [];
  // Grows while reads bring nothing. On a busy machine an answer can take longer than a short read.
  patience = 1;

  constructor(stream, mode) {
    this.stream = stream;
    this.mode = mode;
  }

  async follow(finished) {
    while (!finished(this)) {
      this.reads += 1;
      const before = this.offset;
      const lastsMs = between(30, 430) * this.patience;
      await (this.mode === "SSE" ? this.#listen(lastsMs) : this.#poll(lastsMs));
      this.patience = this.offset === before ? Math.min(2 * this.patience, 16) : 1;
    }
  }

  async #listen(lastsMs) {
    const reader = await this.stream.events(this.offset).catch(() => undefined);
    if (reader?.status !== 200) {
      if (reader && reader.status < 500) this.faults.push(`SSE answered ${reader.status}`);
      await sleep(30);
      return;
    }
    const until = performance.now() + lastsMs;
    while (performance.now() < until && !reader.ended) await sleep(10);
    reader.close();
    let pending = [];
    for (const event of reader.events) {
      if (event.type === "data") {
        pending.push(...JSON.parse(event.data));
      } else {
        this.messages.push(...pending);
        this.offset = event.control.streamNextOffset;
        pending = [];
      }
    }
  }

  async #poll(lastsMs) {
    const signal = AbortSignal.timeout(lastsMs);
    const answer = await this.stream.longPoll(this.offset, { signal }).catch(() => undefined);
    if (!answer) return;
    if (answer.status === 200) this.messages.push(...answer.json());
    if (answer.status === 200 || answer.status === 204) this.offset = answer.offset;
    else if (answer.status < 500) this.faults.push(`long-poll answered ${answer.status}`);
    else await sleep(30);
  }
}

test("25 reconnecting readers see every message once and in order, over 7 resets", async () => {
  const stream = await Stream.create(server.url, { contentType: "application/json" });
  const [writers, each] = [3, 250];
  const followers = range(25).map(
    (index) => new Follower(stream, index % 2 === 0 ? "SSE" : "long-poll"),
  );

  const writing = Promise.all(range(writers).map((writer) => write(stream, writer, each)));
  let resets = 0;
  const resetting = (async () => {
    for (; resets < 7; resets += 1) {
      await sleep(350);
      await stream
        .request("POST", {
          headers: { "X-Test-Op": "reset", "Content-Type": "application/json" },
          body: "0",
        })
        .catch(() => undefined);
    }
  })();
  const deadline = performance.now() + 150_000;
  const following = followers.map((follower) =>
    follower.follow(
      ({ messages }) => messages.length >= writers * each || performance.now() > deadline,
    ),
  );
  await Promise.all([writing, resetting]);
  await Promise.all(following);

  const written = await stream.messages();
  expect(written).toHaveLength(writers * each);
  for (const writer of range(writers)) {
    expect(
      written.filter((message) => message.writer === writer).map((message) => message.index),
    ).toEqual(range(each));
  }
  const tail = (await stream.head()).offset;
  for (const follower of followers) {
    expect(follower.faults).toEqual([]);
    expect(follower.messages).toEqual(written);
    expect(follower.offset).toBe(tail);
  }
  expect(followers.reduce((reads, follower) => reads + follower.reads, 0)).toBeGreaterThan(25 * 5);
});

test("SSE readers that stay connected do not notice a reset of the object", async () => {
  const stream = await Stream.create(server.url, { contentType: "application/json" });
  const readers = await Promise.all(range(25).map(() => stream.events("-1")));
  await Promise.all(readers.map((reader) => reader.upToDate()));
  const instances = new Set();
  for (const index of range(7)) {
    instances.add((await stream.statistics()).instance);
    await write(stream, `life-${index}`, 3);
    await stream
      .request("POST", {
        headers: { "X-Test-Op": "reset", "Content-Type": "application/json" },
        body: "0",
      })
      .catch(() => undefined);
  }
  await write(stream, "last", 3);
  expect(instances.size).toBe(7);
  const written = await stream.messages();
  expect(written).toHaveLength(8 * 3);
  const tail = (await stream.head()).offset;
  await Promise.all(
    readers.map((reader) => reader.control(({ streamNextOffset }) => streamNextOffset === tail)),
  );
  for (const reader of readers) {
    expect(reader.messages).toEqual(written);
    expect(reader.ended).toBe(false);
    reader.close();
  }
});

async function residentBytes(pid) {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(status.match(/^VmRSS:\s+(\d+) kB$/m)[1]) * 1024;
}

const slowBytes = 40_000_000;
const slowRecord = 100_000;

// Appends 40 MB of distinct records, while one reader follows. Returns the growth of the server's
// memory.
async function appendMuch(stream) {
  const quick = await stream.events("now");
  await quick.upToDate();
  const before = await residentBytes(server.pid);
  const digest = createHash("sha256");
  let most = before;
  for (const index of range(slowBytes / slowRecord)) {
    const record = Buffer.alloc(slowRecord, `${index};`);
    digest.update(record);
    expect((await stream.append(record)).status).toBe(204);
    if (index % 20 === 0) most = Math.max(most, await residentBytes(server.pid));
  }
  const grown = Math.max(most, await residentBytes(server.pid)) - before;
  const written = digest.digest("hex");
  const tail = (await stream.head()).offset;
  await quick.control(({ streamNextOffset }) => streamNextOffset === tail);
  expect(createHash("sha256").update(quick.text).digest("hex")).toBe(written);
  quick.close();
  return { grown, written, tail };
}

test.skipIf(process.platform !== "linux")(
  "a reader that does not read costs little memory, delays no other, and misses nothing",
  async () => {
    // The first run allocates memory that all runs need. Only later runs are compared.
    await appendMuch(await Stream.create(server.url));
    const without = await appendMuch(await Stream.create(server.url));

    const stream = await Stream.create(server.url);
    const slow = await stream.events("-1", { paused: true });
    await eventually(
      "the slow reader's subscription",
      async () => (await stream.statistics()).subscribers === 1,
    );
    const { grown, written, tail } = await appendMuch(stream);
    console.log(
      `40 MB appended: memory grown by ${(without.grown / 1e6).toFixed(1)} MB, with a reader that does not read by ${(grown / 1e6).toFixed(1)} MB`,
    );
    expect(grown - without.grown).toBeLessThan(0.75 * slowBytes);
    await eventually(
      "at most the slow reader's subscription",
      async () => (await stream.statistics()).subscribers <= 1,
    );

    slow.resume();
    await slow.control(({ streamNextOffset }) => streamNextOffset === tail, { timeoutMs: 30_000 });
    expect(createHash("sha256").update(slow.text).digest("hex")).toBe(written);
    expect(slow.ended).toBe(false);
    slow.close();
  },
  300_000,
);

test("200 readers that come and go leave no subscriber behind", async () => {
  const stream = await Stream.create(server.url);
  for (const round of range(10)) {
    const readers = await Promise.all(range(20).map(() => stream.events("now")));
    await Promise.all(readers.map((reader) => reader.upToDate()));
    if (round === 0)
      await eventually(
        "20 subscribers",
        async () => (await stream.statistics()).subscribers === 20,
      );
    for (const reader of readers) reader.close();
  }
  await eventually("no subscriber", async () => (await stream.statistics()).subscribers === 0);
});

test("cancelled long-polls leave no subscriber behind", async () => {
  const stream = await Stream.create(server.url);
  for (let round = 0; round < 5; round += 1) {
    await Promise.all(
      range(20).map(() =>
        stream.longPoll("now", { signal: AbortSignal.timeout(50) }).catch(() => undefined),
      ),
    );
  }
  await eventually("no subscriber", async () => (await stream.statistics()).subscribers === 0);
});

test("readers of a deleted stream leave no subscriber to its successor", async () => {
  const stream = await Stream.create(server.url, { body: "old" });
  const readers = await Promise.all(range(5).map(() => stream.events("-1")));
  await Promise.all(readers.map((reader) => reader.upToDate()));
  await stream.delete();
  await Promise.all(readers.map((reader) => reader.end({ timeoutMs: 3_000 })));
  await stream.put();
  expect((await stream.statistics()).subscribers).toBe(0);
  const reader = await stream.events("-1");
  await stream.append("new");
  expect((await reader.next({ type: "data" })).data).toBe("new");
  expect(readers.every((old) => old.text === "old")).toBe(true);
  reader.close();
});
