// Measures the median and the 95th percentile of the latency of appends and reads, against a
// budget.
//
// PERF_BASE_URL          measure this server instead of one of our own; the budget is then enforced
// PERF_ITERATIONS        samples of each kind (default 25)
// PERF_BUDGET_MS         the most that a median may take (default 50)
// PERF_ENFORCE           1 enforces the budget, 0 only prints
// PERF_LONGPOLL_TIMEOUT  1 measures one long-poll that runs into its timeout too

import { afterAll, beforeAll, expect, test } from "vitest";
import { startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";
import { median, quantile } from "./load.mjs";

function setting(name, fallback) {
  const value = Number(process.env[name] ?? fallback);
  if (!(value > 0)) throw new Error(`${name} must be a positive number`);
  return value;
}

const foreign = process.env.PERF_BASE_URL?.replace(/\/$/, "");
const iterations = setting("PERF_ITERATIONS", 25);
const budgetMs = setting("PERF_BUDGET_MS", 50);
const enforced =
  process.env.PERF_ENFORCE === undefined ? foreign !== undefined : process.env.PERF_ENFORCE === "1";

let server;

beforeAll(async () => {
  server = foreign
    ? { url: foreign, stop: async () => {} }
    : await startServer({ bundle: "target/worker", env: { LONG_POLL_TIMEOUT_MS: 1_000 } });
});
afterAll(() => server?.stop());

async function sample(what, act) {
  const times = [];
  for (let index = 0; index < iterations; index += 1) {
    const begun = performance.now();
    await act(index);
    times.push(performance.now() - begun);
  }
  const p50 = median(times);
  console.log(
    `${what}: p50 ${p50.toFixed(2)} ms, p95 ${quantile(times, 0.95).toFixed(2)} ms over ${iterations}`,
  );
  if (enforced) expect(p50, `the median of ${what}`).toBeLessThanOrEqual(budgetMs);
}

test("appends and reads stay within the budget", async () => {
  const stream = await Stream.create(server.url, { contentType: "application/json" });
  try {
    await sample("append", async (index) => {
      expect((await stream.append(JSON.stringify({ index, filling: "x".repeat(80) }))).status).toBe(
        204,
      );
    });
    await sample("read", async () => {
      expect((await stream.get()).json()).toHaveLength(iterations);
    });
  } finally {
    await stream.delete();
  }
});

test.skipIf(process.env.PERF_LONGPOLL_TIMEOUT !== "1")(
  "a long-poll without data ends by its timeout",
  async () => {
    const stream = await Stream.create(server.url);
    const begun = performance.now();
    expect((await stream.longPoll(stream.start)).status).toBe(204);
    console.log(`long-poll timeout: ${(performance.now() - begun).toFixed(0)} ms`);
    await stream.delete();
  },
);
