// Run by hand: node tests/performance/bench.mjs
//
// (a) Appends of 100 bytes, compared with a minimal Durable Object that inserts one row for each
//     POST. Both run in the same runtime, in alternating turns.
// (b) The time from the start of an append to its arrival at SSE readers.
//
// On a small machine client and server share the processors, so that ratios say more than absolute
// figures.

import { readFileSync } from "node:fs";
import net from "node:net";
import { startServer } from "../harness/server.mjs";
import { sleep } from "../harness/http.mjs";
import { freshName, Stream } from "../harness/stream.mjs";
import { Connection, median, prepare, quantile } from "./load.mjs";

const turns = 5;
const sequentialAppends = 1_000;
const loadConnections = 32;
const loadMs = 3_000;
const payload = "x".repeat(100);

const contentType = { "Content-Type": "application/octet-stream" };

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

async function sequentialMs(base) {
  const append = prepare(base, "POST", await freshStream(base), contentType, payload);
  const connection = await Connection.open(base);
  for (let warm = 0; warm < 100; warm += 1) expectAppended(await connection.send(append));
  const times = [];
  for (let index = 0; index < sequentialAppends; index += 1) {
    const begun = performance.now();
    expectAppended(await connection.send(append));
    times.push(performance.now() - begun);
  }
  connection.close();
  return { p50: median(times), p95: quantile(times, 0.95) };
}

// User and system time of a process, from Linux's clock of 100 ticks a second. Unknown elsewhere.
function processorMs(pid) {
  if (process.platform !== "linux") return NaN;
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

async function underLoad({ url: base, pid }) {
  const append = prepare(base, "POST", await freshStream(base), contentType, payload);
  const connections = await Promise.all(
    Array.from({ length: loadConnections }, () => Connection.open(base)),
  );
  const [begun, processorBegun] = [performance.now(), processorMs(pid)];
  let appended = 0;
  await Promise.all(
    connections.map(async (connection) => {
      while (performance.now() - begun < loadMs) {
        expectAppended(await connection.send(append));
        appended += 1;
      }
      connection.close();
    }),
  );
  return {
    rate: (appended * 1_000) / (performance.now() - begun),
    processor: ((processorMs(pid) - processorBegun) * 1_000) / appended,
  };
}

async function comparison() {
  const ours = await startServer({ bundle: "target/worker" });
  const baseline = await startServer({
    bundle: "tests/performance/baseline",
    modules: [{ name: "index.js", kind: "esModule" }],
    objects: [{ className: "Baseline", binding: "STREAMS" }],
  });
  const results = { ours: [], baseline: [] };
  try {
    for (let turn = 0; turn < turns; turn += 1) {
      for (const [name, server] of [
        ["ours", ours],
        ["baseline", baseline],
      ]) {
        const sequential = await sequentialMs(server.url);
        const load = await underLoad(server);
        results[name].push({ ...sequential, ...load });
        console.log(
          `turn ${turn + 1} ${name.padEnd(8)} p50 ${sequential.p50.toFixed(3)} ms  p95 ${sequential.p95.toFixed(3)} ms; ` +
            `at ${loadConnections} connections ${load.rate.toFixed(0)} appends/s, ${load.processor.toFixed(0)} us of processor each`,
        );
      }
    }
  } finally {
    await Promise.all([ours.stop(), baseline.stop()]);
  }
  for (const [what, field, unit, digits] of [
    ["append p50 at 1 connection", "p50", "ms", 3],
    [`appends at ${loadConnections} connections`, "rate", "/s", 0],
    [`processor for an append at ${loadConnections} connections`, "processor", "us", 0],
  ]) {
    const [own, least] = ["ours", "baseline"].map((name) =>
      median(results[name].map((result) => result[field])),
    );
    console.log(
      `median of ${turns}: ${what}: ${own.toFixed(digits)} ${unit}, baseline ${least.toFixed(digits)} ${unit}, ratio ${(own / least).toFixed(2)}`,
    );
  }
}

/**
 * A reader on a raw socket. It only looks for the marks that the benchmark puts into its appends.
 */
class Watcher {
  arrivals = new Map();
  #text = "";

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
    for (const [mark, index] of this.#text.matchAll(/<(\d+)>/g)) {
      if (mark && !this.arrivals.has(index)) this.arrivals.set(index, performance.now());
    }
    this.#text = this.#text.slice(-16);
  }
}

async function arrival(readers) {
  const appends = 200;
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
      await sleep(15);
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
      `append to SSE chunk, ${readers} reader(s): p50 ${median(each).toFixed(2)} ms  p95 ${quantile(each, 0.95).toFixed(2)} ms; last reader p50 ${median(last).toFixed(2)} ms  p95 ${quantile(last, 0.95).toFixed(2)} ms`,
    );
    for (const watcher of watchers) watcher.socket.destroy();
    connection.close();
  } finally {
    await server.stop();
  }
}

await comparison();
await arrival(1);
await arrival(100);
