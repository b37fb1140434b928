// Run by hand: node tests/performance/registry.mjs [events]
//
// Measures what events of the registry (1,000,000 by default) cost to store and to read. It uses
// the server for one machine with TEST_SHELL=server, and otherwise workerd with R2 and D1 as
// wrangler runs them. It uses loopback only.
//
// It first creates and deletes 500 streams, to get real events and the rows that a stream writes.
// No client can write to the registry, so it then appends the events to another stream as objects
// append them to a shard: one POST for each, with its own producer. Last, it reads all of them, in
// one answer and in pages.

import { randomBytes } from "node:crypto";
import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import { eventually, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";
import { Connection, prepare } from "./load.mjs";

const count = Number(process.argv[2] ?? 1_000_000);
if (!Number.isSafeInteger(count) || count < 2 || count > 10_000_000)
  throw new Error("events: a number from 2 to 10000000");
const streams = 500;
const connectionCount = 32;
const patience = { timeoutMs: 300_000 };
const onServer = shell === "server";
// The beginning of an event.
const mark = Buffer.from('{"type":"stream"');

/** Bytes of the files below a directory. */
async function bytesBelow(directory) {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true }).catch(
    () => [],
  );
  const files = entries.filter((entry) => entry.isFile());
  const sizes = await Promise.all(
    files.map((file) =>
      stat(path.join(file.parentPath, file.name)).then(
        ({ size }) => size,
        () => 0,
      ),
    ),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function inParallel(items, act) {
  const waiting = items[Symbol.iterator]();
  const work = async () => {
    for (const item of waiting) await act(item);
  };
  await Promise.all(Array.from({ length: connectionCount }, work));
}

/** Returns real events, and the rows that a stream's object writes for its creation and its end. */
async function realEvents(base) {
  const names = Array.from(
    { length: streams },
    (_, index) => `users/${randomBytes(6).toString("hex")}/chat-${index}`,
  );
  const all = names.map((name) => new Stream(base, name, "application/json"));
  await inParallel(all, (stream) => stream.put());
  const registry = new Stream(base, "__registry__", "application/json");
  const announced = (least) =>
    eventually(
      "the registry to have the events",
      async () =>
        (await registry.head()).status === 200 && (await registry.messages()).length >= least,
      patience,
    );
  await announced(streams);
  const created = onServer ? undefined : await all[0].statistics();
  await inParallel(all, (stream) => stream.delete());
  await announced(2 * streams);
  const ended = onServer ? undefined : await all[0].statistics();
  const events = (await registry.messages()).map((event) => JSON.stringify(event));
  const mean = events.reduce((sum, event) => sum + event.length, 0) / events.length;
  console.log(
    `events: ${streams} streams created and deleted; ${events.length} events, ${mean.toFixed(0)} bytes of JSON each`,
  );
  if (created)
    console.log(
      `a stream's own rows: ${created.rows_written} written for its creation, ${ended.rows_written - created.rows_written} for its end`,
    );
  return events;
}

async function append(base, stream, events) {
  const connections = await Promise.all(
    Array.from({ length: connectionCount }, () => Connection.open(base)),
  );
  const begun = performance.now();
  let sent = 0;
  await Promise.all(
    connections.map(async (connection) => {
      while (sent < count) {
        const event = events[sent % events.length];
        sent += 1;
        const headers = {
          "Content-Type": "application/json",
          "Producer-Id": randomBytes(8).toString("hex"),
          "Producer-Epoch": "0",
          "Producer-Seq": "0",
        };
        const status = await connection.send(prepare(base, "POST", stream.path, headers, event));
        if (status !== 200 && status !== 204) throw new Error(`an append answered ${status}`);
      }
      connection.close();
    }),
  );
  return (performance.now() - begun) / 1_000;
}

/** Reads everything. Returns requests, bytes, events and seconds. */
async function read(stream) {
  const begun = performance.now();
  const total = { requests: 0, bytes: 0, events: 0 };
  for (let offset = "-1"; ;) {
    const page = await fetch(`${stream.url}?offset=${offset}`);
    if (!page.ok) throw new Error(`a read answered ${page.status}`);
    total.requests += 1;
    let rest = Buffer.alloc(0);
    for await (const piece of page.body) {
      total.bytes += piece.length;
      const text = Buffer.concat([rest, piece]);
      let counted = 0;
      for (let at = text.indexOf(mark); at >= 0; at = text.indexOf(mark, counted)) {
        total.events += 1;
        counted = at + mark.length;
      }
      rest = text.subarray(Math.max(counted, text.length - mark.length + 1));
    }
    offset = page.headers.get("stream-next-offset");
    if (page.headers.get("stream-up-to-date") === "true") break;
  }
  return { ...total, seconds: (performance.now() - begun) / 1_000 };
}

/** Waits until no more data moves to cold storage. */
async function untilQuiet(directory) {
  let size = -1;
  for (let quiet = 0, tries = 0; quiet < 3 && tries < 120; tries += 1) {
    await sleep(1_000);
    const now = await bytesBelow(directory);
    quiet = now === size ? quiet + 1 : 0;
    size = now;
  }
  return size;
}

async function withServer(options, act) {
  const server = await startServer({
    bundle: onServer ? "target/worker" : "target/worker-test",
    ...options,
  });
  try {
    return await act(server);
  } finally {
    await server.stop();
  }
}

const cold = onServer ? "directory" : true;

await withServer({ cold }, async (server) => {
  const events = await realEvents(server.url);
  const shard = await Stream.create(server.url, { contentType: "application/json" });
  const before = {
    bytes: await untilQuiet(server.dataDirectory),
    ...(onServer ? {} : await shard.statistics()),
  };
  const seconds = await append(server.url, shard, events);
  const after = {
    bytes: await untilQuiet(server.dataDirectory),
    ...(onServer ? {} : await shard.statistics()),
  };
  console.log(
    `store: ${count} events in ${seconds.toFixed(1)} s, ${(count / seconds).toFixed(0)} a second`,
  );
  const grown = after.bytes - before.bytes;
  console.log(
    `  on disk, hot and cold: ${grown} bytes, ${(grown / count).toFixed(1)} for each event`,
  );
  if (!onServer) {
    if (after.instance !== before.instance) throw new Error("the object was restarted");
    const [written, rowsRead] = ["rows_written", "rows_read"].map(
      (name) => after[name] - before[name],
    );
    const { put } = await server.coldTier.counts();
    const segments = await server.coldTier.segmentsOf(shard);
    const stored = segments.reduce((sum, each) => sum + each.bytes, 0);
    const messages = segments.reduce((sum, each) => sum + each.messages, 0);
    console.log(
      `  rows: ${written} written (${(written / count).toFixed(4)} for each event), ${rowsRead} read`,
    );
    console.log(
      `  R2: ${segments.length} segments of ${messages} events, ${(stored / messages).toFixed(1)} bytes for each; ${put.operations} puts`,
    );
    // Dollars for a million events: $1 for a million rows written, $0.001 for a million read, $4.50
    // for a million puts, $0.15 for a million requests to the object; and $0.015 for each GB and
    // month in R2.
    const million = 1_000_000 / count;
    console.log(
      `  for a million events: rows $${((written + rowsRead / 1_000) / count).toFixed(2)}, requests $0.15, ` +
        `puts $${(put.operations * million * 4.5e-6).toFixed(5)}; then $${((stored / messages) * 1e6 * 15e-12).toFixed(5)} a month in R2`,
    );
  }
  const whole = await read(shard);
  if (whole.events !== count) throw new Error(`${whole.events} of ${count} events were read`);
  console.log(
    `read: everything in ${whole.requests} request(s): ${whole.events} events, ${whole.bytes} bytes, ${whole.seconds.toFixed(2)} s`,
  );
});
