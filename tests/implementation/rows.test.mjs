// Storage is billed by rows written. These tests assert the cost of each request. They run on the
// Worker only, because only Cloudflare bills rows.

import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { eventually, request } from "../harness/http.mjs";
import { objectNamespace, shell, startServer } from "../harness/server.mjs";
import { announced, settled } from "../harness/settled.mjs";
import { freshName, producer, Stream } from "../harness/stream.mjs";

// The runtime creates an empty database of one page for every object that starts.
const untouchedDatabaseBytes = 4096;

let server;

beforeAll(async () => {
  if (shell === "worker") server = await startServer({ env: { LONG_POLL_TIMEOUT_MS: 200 } });
});
afterAll(() => server?.stop());

const range = (count) => Array.from({ length: count }, (_, index) => index);

async function rowsWritten(stream, act) {
  await announced(stream);
  const before = await stream.statistics();
  await act();
  const after = await stream.statistics();
  expect(after.instance, "the object was restarted in the middle of the measurement").toBe(
    before.instance,
  );
  return after.rows_written - before.rows_written;
}

describe.runIf(shell === "worker")("creation", () => {
  // A table of two rows, the stream's row, and that row again once the registry has the event.
  test("a stream that is not used again costs four rows and one removed alarm", async () => {
    const stream = await Stream.create(server.url);
    await eventually(
      "the registry has the event",
      async () => (await stream.statistics()).rows_written >= 4,
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    const statistics = await stream.statistics();
    expect(statistics.rows_written).toBe(4);
    expect(statistics.alarms_set).toBe(1);
  });

  // The first append makes its table: two rows.
  test("a stream with one append costs seven rows, whether it is created with it or not", async () => {
    for (const body of [undefined, "x"]) {
      const stream = await Stream.create(server.url, { body });
      if (body === undefined) expect((await stream.append("x")).status).toBe(204);
      await eventually(
        "the registry has the event",
        async () => (await stream.statistics()).rows_written >= 7,
      );
      await new Promise((resolve) => setTimeout(resolve, 300));
      const statistics = await stream.statistics();
      expect(statistics.rows_written).toBe(7);
      expect(statistics.alarms_set).toBe(1);
      expect(await rowsWritten(stream, () => stream.append("y"))).toBe(1);
    }
  });
});

describe.runIf(shell === "worker")("creation with R2 and D1", () => {
  // As above: the stream's row is written once, when all receivers have the stream.
  test("a stream that is not used again costs four rows and one removed alarm", async () => {
    const own = await startServer({ cold: true });
    onTestFinished(() => own.stop());
    const stream = await Stream.create(own.url);
    await eventually(
      "the index has the stream",
      async () => (await own.coldTier.indexed(stream)).length === 1,
    );
    await eventually(
      "the registry has the event",
      async () => (await stream.statistics()).rows_written >= 4,
    );
    await new Promise((resolve) => setTimeout(resolve, 500));
    const statistics = await stream.statistics();
    expect(statistics.rows_written).toBe(4);
    expect(statistics.alarms_set).toBe(1);
  });
});

describe.runIf(shell === "worker")("appends", () => {
  const json = JSON.stringify(range(100).map((index) => ({ index })));
  const cases = [
    ["plain", "text/plain", (stream) => stream.append("x".repeat(100)), 204],
    [
      "with a Stream-Seq",
      "text/plain",
      (stream, index) => stream.append("x", { "Stream-Seq": String(index).padStart(5, "0") }),
      204,
    ],
    [
      "of a producer",
      "text/plain",
      (stream, index) => stream.append("x", producer("p", 0, index)),
      200,
    ],
    [
      "of a producer each",
      "text/plain",
      (stream, index) => stream.append("x", producer(`p${index}`, 0, 0)),
      200,
    ],
    ["of one JSON message", "application/json", (stream) => stream.append('{"a":1}'), 204],
    ["of 100 JSON messages", "application/json", (stream) => stream.append(json), 204],
    [
      "of 100 JSON messages by a producer",
      "application/json",
      (stream, index) => stream.append(json, producer("p", 0, index)),
      200,
    ],
    [
      "of 100 kB",
      "application/octet-stream",
      (stream) => stream.append(Buffer.alloc(100_000)),
      204,
    ],
  ];

  test.each(cases)("an append %s writes one row", async (_, contentType, append, status) => {
    // The first append makes the table.
    const stream = await Stream.create(server.url, { contentType, body: "0" });
    const count = 20;
    const written = await rowsWritten(stream, async () => {
      for (const index of range(count)) expect((await append(stream, index)).status).toBe(status);
    });
    expect(written).toBe(count);
    expect((await stream.statistics()).last_turn_rows_written).toBe(1);
  });

  test("an append to a stream with live readers writes one row", async () => {
    const stream = await Stream.create(server.url, { body: "x" });
    const readers = await Promise.all(range(5).map(() => stream.events("-1")));
    await Promise.all(readers.map((reader) => reader.upToDate()));
    expect(await rowsWritten(stream, () => stream.append("x"))).toBe(1);
    for (const reader of readers) reader.close();
  });

  test("a refused append and a duplicate write nothing", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    await stream.append("1", { ...producer("p", 5, 0), "Stream-Seq": "m" });
    const written = await rowsWritten(stream, async () => {
      expect((await stream.append("1", producer("p", 5, 0))).status).toBe(204);
      expect((await stream.append("1", producer("p", 5, 7))).status).toBe(409);
      expect((await stream.append("1", producer("p", 4, 0))).status).toBe(403);
      expect((await stream.append("1", { "Stream-Seq": "a" })).status).toBe(409);
      expect((await stream.append("[]")).status).toBe(400);
      expect((await stream.append("{")).status).toBe(400);
      expect((await stream.post("1", { "Content-Type": "text/plain" })).status).toBe(409);
      expect((await stream.put()).status).toBe(200);
    });
    expect(written).toBe(0);
  });
});

describe.runIf(shell === "worker")("subscriptions", () => {
  const subscriptions = "/v1/stream/__ds/subscriptions/";
  const wakes = freshName("wakes");

  async function subscribe(stream) {
    const id = freshName("rows");
    const answer = await request(server.url, subscriptions + id, {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ type: "pull-wake", streams: [stream.name], wake_stream: wakes }),
    });
    expect(answer.status, answer.text).toBe(201);
  }

  // `machine/tests/objects/subscriptions.rs` does the same with 5,000.
  test("an append writes one row with 0, 1 and 200 subscriptions", async () => {
    expect((await new Stream(server.url, wakes, "application/json").put()).status).toBe(201);
    for (const count of [0, 1, 200]) {
      const stream = await Stream.create(server.url, { body: "0" });
      for (let each = 0; each < count; each += 1) await subscribe(stream);
      // The first append wakes all of them, and after the second one they hold.
      for (let each = 0; each < 2; each += 1) {
        expect((await stream.append("x")).status).toBe(204);
        await settled(stream);
      }
      const appends = 20;
      const before = await stream.statistics();
      const written = await rowsWritten(stream, async () => {
        for (let each = 0; each < appends; each += 1) {
          expect((await stream.append("x")).status).toBe(204);
        }
      });
      const after = await stream.statistics();
      expect(written, `with ${count}`).toBe(appends);
      expect(after.alarms_set, `with ${count}`).toBe(before.alarms_set);
      expect(after.calls_sent, `with ${count}`).toBe(before.calls_sent);
    }
  });
});

describe.runIf(shell === "worker")("reads", () => {
  const cases = [
    ["a catch-up read", (stream) => stream.get(), 200],
    ["a read at the tail", (stream) => stream.read(stream.tail), 200],
    ["a read from now", (stream) => stream.read("now"), 200],
    ["HEAD", (stream) => stream.head(), 200],
    ["a read answered 304", (stream) => stream.get("", { "If-None-Match": "*" }), 304],
    ["a long-poll behind the tail", (stream) => stream.longPoll("-1"), 200],
    ["a long-poll that waits", (stream) => stream.longPoll("now"), 204],
    [
      "an SSE read",
      async (stream) => {
        const reader = await stream.events("-1");
        await reader.upToDate();
        reader.close();
        return reader;
      },
      200,
    ],
  ];

  test.each(cases)("%s writes nothing", async (_, read, status) => {
    const stream = await Stream.create(server.url);
    stream.tail = (await stream.append("x".repeat(100))).offset;
    const written = await rowsWritten(stream, async () => {
      for (let index = 0; index < 10; index += 1) expect((await read(stream)).status).toBe(status);
    });
    expect(written).toBe(0);
  });

  test("an SSE read that stays attached writes nothing", async () => {
    const stream = await Stream.create(server.url);
    const reader = await stream.events("-1");
    await reader.upToDate();
    await eventually(
      "the reader's subscription",
      async () => (await stream.statistics()).subscribers === 1,
    );
    expect(
      await rowsWritten(stream, () => new Promise((resolve) => setTimeout(resolve, 1_000))),
    ).toBe(0);
    reader.close();
  });

  test("1,000 reads of a stream with a TTL write only a few rows", async () => {
    const stream = await Stream.create(server.url, {
      body: "abc",
      headers: { "Stream-TTL": "3600" },
    });
    const written = await rowsWritten(stream, async () => {
      for (let index = 0; index < 1_000; index += 1) expect((await stream.get()).status).toBe(200);
    });
    expect(written).toBeLessThanOrEqual(5);
  });

  test("a long read of many small appends reads each row at most twice", async () => {
    const stream = await Stream.create(server.url);
    for (let index = 0; index < 100; index += 1) await stream.append("x");
    await announced(stream);
    const before = await stream.statistics();
    expect((await stream.get()).text).toHaveLength(100);
    const after = await stream.statistics();
    expect(after.rows_read - before.rows_read).toBeLessThanOrEqual(210);
  });
});

describe.runIf(shell === "worker")("an unknown name", () => {
  // Nothing is created here, because tables of other streams would still grow when the registry
  // gets their events.
  let own;
  beforeAll(async () => {
    own = await startServer({ env: { LONG_POLL_TIMEOUT_MS: 200 } });
  });
  afterAll(() => own?.stop());

  async function databasesNow() {
    const directory = path.join(own.dataDirectory, objectNamespace);
    const names = (await readdir(directory).catch(() => [])).filter(
      (name) => /\.sqlite(-wal)?$/.test(name) && !name.startsWith("metadata"),
    );
    // A log can be removed meanwhile, when its object goes to sleep.
    const size = (name) =>
      stat(path.join(directory, name)).then(
        ({ size }) => size,
        () => 0,
      );
    return new Map(await Promise.all(names.map(async (name) => [name, await size(name)])));
  }

  // The files of an object may still change after its answer.
  async function databases() {
    let known = await databasesNow();
    await eventually(
      "quiet databases",
      async () => {
        const before = known;
        known = await databasesNow();
        return JSON.stringify([...before].sort()) === JSON.stringify([...known].sort());
      },
      { everyMs: 250 },
    );
    return known;
  }

  const cases = [
    ["GET", (stream) => stream.get()],
    ["a long-poll", (stream) => stream.longPoll("-1")],
    ["an SSE read", (stream) => stream.events("-1")],
    ["HEAD", (stream) => stream.head()],
    ["POST", (stream) => stream.append("x")],
    ["POST of a producer", (stream) => stream.append("x", producer("p", 0, 0))],
    ["a close", (stream) => stream.close()],
    ["DELETE", (stream) => stream.delete()],
    ["a refused PUT", (stream) => stream.put({ headers: { "Stream-TTL": "x" } }), 400],
  ];

  test.each(cases)("%s leaves nothing behind", async (_, ask, status = 404) => {
    const before = await databases();
    const stream = new Stream(own.url);
    for (let index = 0; index < 3; index += 1) expect((await ask(stream)).status).toBe(status);
    const added = [...(await databases())].filter(([name]) => !before.has(name));
    for (const [name, bytes] of added)
      expect(bytes, name).toBe(name.endsWith("-wal") ? 0 : untouchedDatabaseBytes);
    const statistics = await stream.statistics();
    expect(statistics.tables).toEqual([]);
    expect(statistics.rows_written).toBe(0);
  });
});

describe.runIf(shell === "worker")("deletion", () => {
  test("a deleted stream leaves no table behind", async () => {
    const stream = await Stream.create(server.url, { body: "x".repeat(10_000) });
    await stream.append("y", producer("p", 0, 0));
    await stream.delete();
    await eventually(
      "no table, once the registry has the event",
      async () => (await stream.statistics()).tables.length === 0,
    );
  });
});
