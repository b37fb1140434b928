// Run by hand: node tests/performance/bench.mjs [options]
//
// (a) Appends of 100 bytes by 1, 8, 32 and 128 writers, compared with a minimal Durable Object that
//     inserts one row for each POST. Both run in the same runtime, in alternating turns.
// (b) The time from the start of an append to its arrival at SSE readers, and with 32 writers at
//     full speed the messages that each reader gets for an append.
//
// --sync-ms MS       each sync of a file takes so much longer; needs a C compiler
// --commits N,N      the Worker with each of these COMMITS_IN_FLIGHT
// --writers N,N      other numbers of writers
// --appends-only     without (b)
//
// On a small machine client and server share the processors, so that ratios say more than absolute
// figures.

import net from "node:net";
import { parseArgs } from "node:util";
import { startServer } from "../harness/server.mjs";
import { sleep } from "../harness/http.mjs";
import { freshName, Stream } from "../harness/stream.mjs";
import { Connection, median, prepare, processorMs, quantile, slowSyncs } from "./load.mjs";

const { values: options } = parseArgs({
  options: {
    "sync-ms": { type: "string" },
    commits: { type: "string", default: "1" },
    writers: { type: "string", default: "1,8,32,128" },
    "appends-only": { type: "boolean", default: false },
  },
});
const numbers = (list) => list.split(",").map(Number);

const turns = 5;
const warmMs = 300;
const loadMs = 2_000;
const payload = "x".repeat(100);

const contentType = { "Content-Type": "application/octet-stream" };

if (options["sync-ms"] !== undefined) slowSyncs(options["sync-ms"]);

async function freshStream(base) {
  const path = `/v1/stream/${freshName("bench")}`;
  const connection = await Connection.open(base);
  const status = await connection.send(prepare(base, "PUT", path, contentType));
  connection.close();
  if (status !== 201 && status !== 204) throw new Error(`PUT answered ${status}`);
  return path;
}

function expectAppended(status) {
  if (status !== 204) throw new Error(`an append answered ${status}`);
}

/** Appends to one stream, each writer as fast as it is answered. */
async function load({ url: base, pid }, writers, path, headers = contentType) {
  const append = prepare(base, "POST", path, headers, payload);
  const connections = await Promise.all(
    Array.from({ length: writers }, () => Connection.open(base)),
  );
  const appends = async (ms) => {
    const begun = performance.now();
    const times = [];
    await Promise.all(
      connections.map(async (connection) => {
        for (let at = begun; at - begun < ms; ) {
          expectAppended(await connection.send(append));
          const next = performance.now();
          times.push(next - at);
          at = next;
        }
      }),
    );
    return { times, ms: performance.now() - begun };
  };
  const warm = await appends(warmMs);
  const processorBegun = processorMs(pid);
  const { times, ms } = await appends(loadMs);
  for (const connection of connections) connection.close();
  return {
    rate: (times.length * 1_000) / ms,
    p50: median(times),
    p99: quantile(times, 0.99),
    processor: ((processorMs(pid) - processorBegun) * 1_000) / times.length,
    appends: warm.times.length + times.length,
  };
}

/** Counts the rows written by a load. Only the bundle of the tests counts them. */
async function rowsOfAppend(server, writers) {
  const stream = await Stream.create(server.url, { contentType: contentType["Content-Type"] });
  await load(server, writers, stream.path);
  const before = await stream.statistics();
  const { appends } = await load(server, writers, stream.path);
  const after = await stream.statistics();
  return (after.rows_written - before.rows_written) / appends;
}

async function comparison() {
  const writers = numbers(options.writers);
  const kinds = numbers(options.commits).map((commits) => ({
    name: `${commits} in flight`,
    start: { bundle: "target/worker", env: { COMMITS_IN_FLIGHT: commits } },
  }));
  kinds.push({
    name: "bare object",
    start: {
      bundle: "tests/performance/baseline",
      modules: [{ name: "index.js", kind: "esModule" }],
      objects: [{ className: "Baseline", binding: "STREAMS" }],
    },
  });
  for (const kind of kinds) kind.server = await startServer(kind.start);
  const results = new Map();
  try {
    for (let turn = 0; turn < turns; turn += 1) {
      for (const count of writers) {
        for (const { name, server } of kinds) {
          const key = `${count} ${name}`;
          const result = await load(server, count, await freshStream(server.url));
          results.set(key, [...(results.get(key) ?? []), result]);
        }
      }
    }
  } finally {
    for (const { server } of kinds) await server.stop();
  }
  const rows = new Map();
  for (const { name, start } of kinds.slice(0, -1)) {
    const server = await startServer({ ...start, bundle: "target/worker-test" });
    try {
      for (const count of writers) rows.set(`${count} ${name}`, await rowsOfAppend(server, count));
    } finally {
      await server.stop();
    }
  }
  console.log(
    "| writers | | appends/s | beside the bare object | p50 ms | p99 ms | processor us | rows |",
  );
  console.log("| --- | --- | --- | --- | --- | --- | --- | --- |");
  for (const count of writers) {
    const middle = (name, field) =>
      median(results.get(`${count} ${name}`).map((result) => result[field]));
    for (const { name } of kinds) {
      const ratio = middle(name, "rate") / middle("bare object", "rate");
      const cells = [
        count,
        name,
        middle(name, "rate").toFixed(0),
        ratio.toFixed(2),
        middle(name, "p50").toFixed(2),
        middle(name, "p99").toFixed(2),
        middle(name, "processor").toFixed(0),
        (rows.get(`${count} ${name}`) ?? 1).toFixed(3),
      ];
      console.log(`| ${cells.join(" | ")} |`);
    }
  }
}

/**
 * A reader on a raw socket. It only looks for the marks that the benchmark puts into its appends.
 */
class Watcher {
  arrivals = new Map();
  /** Events with data that have arrived. */
  events = 0;
  #text = "";
  #seen = "";

  static async open(base, path) {
    const { hostname, port } = new URL(base);
    const watcher = new Watcher();
    await new Promise((resolve, reject) => {
      const socket = net.connect({ host: hostname, port: Number(port), noDelay: true }, () =>
        socket.write(prepare(base, "GET", `${path}?offset=now&live=sse`)),
      );
      socket.setEncoding("latin1");
      socket.on("error", reject);
      socket.on("data", (text) => {
        watcher.#take(text);
        if (text.includes("upToDate")) resolve();
      });
      watcher.socket = socket;
    });
    return watcher;
  }

  #take(text) {
    this.#text += text;
    const seen = this.#seen + text;
    this.events += seen.split("event: data\n").length - 1;
    this.#seen = seen.slice(seen.lastIndexOf("\n") + 1);
    for (const [mark, index] of this.#text.matchAll(/<(\d+)>/g)) {
      if (mark && !this.arrivals.has(index)) this.arrivals.set(index, performance.now());
    }
    this.#text = this.#text.slice(-16);
  }
}

async function arrival(readers) {
  const appends = 200;
  const pauseMs = Math.max(15, readers / 5);
  const server = await startServer({ bundle: "target/worker" });
  try {
    const stream = await Stream.create(server.url);
    const watchers = await Promise.all(
      Array.from({ length: readers }, () => Watcher.open(server.url, stream.path)),
    );
    const connection = await Connection.open(server.url);
    const begun = new Map();
    for (let index = 0; index < appends; index += 1) {
      const append = prepare(
        server.url,
        "POST",
        stream.path,
        { "Content-Type": "text/plain" },
        `<${index}>`.padEnd(100, "x"),
      );
      begun.set(String(index), performance.now());
      expectAppended(await connection.send(append));
      await sleep(pauseMs);
    }
    await sleep(500);
    const each = watchers.flatMap(({ arrivals }) =>
      [...arrivals].map(([index, at]) => at - begun.get(index)),
    );
    const last = [...begun].map(
      ([index, at]) =>
        Math.max(...watchers.map(({ arrivals }) => arrivals.get(index) ?? Infinity)) - at,
    );
    if (each.length !== readers * appends)
      throw new Error(`${readers * appends - each.length} chunks did not arrive`);
    console.log(
      `append to SSE chunk, ${readers} reader(s): p50 ${median(each).toFixed(2)} ms  p99 ${quantile(each, 0.99).toFixed(2)} ms; last reader p50 ${median(last).toFixed(2)} ms  p99 ${quantile(last, 0.99).toFixed(2)} ms`,
    );
    for (const watcher of watchers) watcher.socket.destroy();
    connection.close();
  } finally {
    await server.stop();
  }
}

/** Counts the messages that a reader gets while 32 writers append at full speed. */
async function messagesUnderLoad() {
  const server = await startServer({ bundle: "target/worker" });
  try {
    const stream = await Stream.create(server.url, { contentType: "text/plain" });
    const watchers = await Promise.all(
      Array.from({ length: 10 }, () => Watcher.open(server.url, stream.path)),
    );
    const { appends } = await load(server, 32, stream.path, { "Content-Type": "text/plain" });
    await sleep(500);
    const messages = watchers.map((watcher) => watcher.events);
    console.log(
      `32 writers at full speed, 10 readers: ${(median(messages) / appends).toFixed(3)} messages for each reader and append`,
    );
    for (const watcher of watchers) watcher.socket.destroy();
  } finally {
    await server.stop();
  }
}

await comparison();
if (!options["appends-only"]) {
  for (const readers of [1, 100, 1_000]) await arrival(readers);
  await messagesUnderLoad();
}
