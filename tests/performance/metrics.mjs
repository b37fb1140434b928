// Run by hand: node tests/performance/metrics.mjs [--rounds 20] [--ms 1000]
//
// The time of an append of 100 bytes by one writer, with and without the dataset METRICS, in
// alternating rounds. The dataset discards its points, so that only the Worker's own work counts.

import { parseArgs } from "node:util";
import { startServer } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";
import { Connection, median, prepare, quantile } from "./load.mjs";

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "20" },
    ms: { type: "string", default: "1000" },
  },
});
const headers = { "Content-Type": "application/octet-stream" };
const payload = "x".repeat(100);
const warmMs = 500;

/** Appends to a new stream for a time, and returns how long each append took. */
async function load(base, ms) {
  const path = `/v1/stream/${freshName("metrics")}`;
  const connection = await Connection.open(base);
  await connection.send(prepare(base, "PUT", path, headers));
  const append = prepare(base, "POST", path, headers, payload);
  const times = [];
  const begun = performance.now();
  for (let at = begun; at - begun < ms; ) {
    const status = await connection.send(append);
    if (status !== 204) throw new Error(`an append answered ${status}`);
    const next = performance.now();
    times.push(next - at);
    at = next;
  }
  connection.close();
  return times;
}

const bundle = "target/worker";
const kinds = [
  { name: "without", server: await startServer({ bundle }) },
  { name: "with", server: await startServer({ bundle, metrics: "discarded" }) },
];
try {
  for (const { server } of kinds) await load(server.url, warmMs);
  const results = kinds.map(() => []);
  const ratios = [];
  for (let round = 0; round < Number(options.rounds); round += 1) {
    const order = round % 2 === 0 ? [0, 1] : [1, 0];
    const of = [];
    for (const kind of order) {
      const times = await load(kinds[kind].server.url, Number(options.ms));
      results[kind].push(...times);
      of[kind] = median(times);
    }
    ratios.push(of[1] / of[0]);
  }
  for (const [kind, { name }] of kinds.entries()) {
    const times = results[kind];
    const [p50, p99] = [median(times), quantile(times, 0.99)].map((each) => each.toFixed(3));
    console.log(`${name} METRICS: ${times.length} appends, p50 ${p50} ms, p99 ${p99} ms`);
  }
  const all = median(results[1]) / median(results[0]);
  console.log(`ratio of p50: ${all.toFixed(4)}; median of the rounds' ${median(ratios).toFixed(4)}`);
} finally {
  for (const { server } of kinds) await server.stop();
}
