// What sessions cost.
//
//   [TEST_SHELL=server] node tests/performance/sessions.mjs [--sessions 200,5000] [--rounds 30]
//
// One stream has many sessions, another one none. In each round one message is appended to either,
// once the server is idle. Printed are the times of the appends, and the times from an append to
// the arrival of its envelope at readers of some of the sessions.
//
// On workerd it also counts what a delivery needs, and says what that costs on Cloudflare. There
// the streams tell their sessions through a queue, which is emulated here: it brings what it has at
// once, without the pause in which Cloudflare's fills a batch. All of it uses loopback only.

import { parseArgs } from "node:util";
import { eventually, request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { freshName, Stream } from "../harness/stream.mjs";
import { Connection, median, prepare, processorMs, quantile } from "./load.mjs";

const { values: options } = parseArgs({
  options: {
    sessions: { type: "string", default: "200,5000" },
    rounds: { type: "string", default: "30" },
    watched: { type: "string", default: "50" },
  },
});
const counts = options.sessions.split(",").map(Number);
const rounds = Number(options.rounds);
const creationsAtOnce = 16;
const json = { "Content-Type": "application/json" };

// Dollars, as of November 2026: developers.cloudflare.com/durable-objects/platform/pricing and
// /queues/platform/pricing. What a plan includes is not subtracted, and neither is the time in
// which objects are in memory.
const price = { objectRequest: 0.15e-6, rowWritten: 1e-6, queueOperation: 0.4e-6 };
// Each message is written, read and deleted.
const operationsOfMessage = 3;

const times = (list) =>
  `p50 ${median(list).toFixed(2)} ms, p99 ${quantile(list, 0.99).toFixed(2)} ms`;

async function jsonStream(base) {
  const stream = new Stream(base, freshName("source"), "application/json");
  await stream.put();
  return stream;
}

async function following(base, stream, count) {
  const sessions = [];
  let begun = 0;
  const ask = async (body, path) => {
    const answer = await request(base, path, { method: "POST", headers: json, body });
    if (answer.status >= 300) throw new Error(`${path} answered ${answer.status}: ${answer.text}`);
    return answer;
  };
  const create = async () => {
    while (begun < count) {
      begun += 1;
      const { sessionId } = (await ask("", "/v1/sessions")).json();
      await ask(JSON.stringify({ sessionId, streamId: stream.name }), "/v1/subscriptions");
      sessions.push(sessionId);
    }
  };
  await Promise.all(Array.from({ length: creationsAtOnce }, create));
  return sessions;
}

/** Reads the stream of a session, and notes when each envelope arrives, by its payload. */
class Watcher {
  arrivals = new Map();
  #ends = new AbortController();

  static async open(base, session) {
    const watcher = new Watcher();
    const url = `${base}/v1/stream/subscriptions/${session}?offset=now&live=sse`;
    const answer = await fetch(url, { signal: watcher.#ends.signal });
    if (answer.status !== 200) throw new Error(`a read of a session answered ${answer.status}`);
    void watcher.#read(answer.body).catch(() => {});
    return watcher;
  }

  async #read(body) {
    let text = "";
    for await (const piece of body.pipeThrough(new TextDecoderStream())) {
      const now = performance.now();
      text += piece;
      const lines = text.split("\n");
      text = lines.pop();
      for (const line of lines) {
        for (const [, number] of line.matchAll(/"payload":(\d+)/g)) {
          this.arrivals.set(Number(number), now);
        }
      }
    }
  }

  close() {
    this.#ends.abort();
  }
}

/** Appends on a connection of its own, because servers close those that are idle. */
async function append(stream, number) {
  const connection = await Connection.open(stream.base);
  const bytes = prepare(stream.base, "POST", stream.path, json, String(number));
  const begun = performance.now();
  const status = await connection.send(bytes);
  const took = performance.now() - begun;
  connection.close();
  if (status !== 204) throw new Error(`an append answered ${status}`);
  return { begun, took };
}

/** Waits until the server does nothing any more. */
async function untilIdle(server) {
  for (let before = -1, now; !Object.is((now = processorMs(server.pid)), before); before = now) {
    await sleep(100);
  }
}

async function measure(count) {
  const server = await startServer({
    bundle: "target/worker",
    queue: shell === "worker",
    env: { SSE_MAX_AGE_MS: "3600000" },
  });
  try {
    const [alone, followed] = [await jsonStream(server.url), await jsonStream(server.url)];
    const sessions = await following(server.url, followed, count);
    const step = Math.max(1, Math.floor(count / Number(options.watched)));
    const watched = sessions.filter((_, index) => index % step === 0);
    const watchers = await Promise.all(watched.map((each) => Watcher.open(server.url, each)));
    const took = { alone: [], followed: [], deliveries: [], all: [] };
    for (let number = 0; number < rounds; number += 1) {
      const order = number % 2 === 0 ? ["alone", "followed"] : ["followed", "alone"];
      for (const kind of order) {
        const stream = kind === "alone" ? alone : followed;
        const appended = await append(stream, number);
        // The first ones warm up.
        if (number >= 3) took[kind].push(appended.took);
        if (kind === "alone") continue;
        const arrived = () => watchers.every(({ arrivals }) => arrivals.has(number));
        await eventually("all envelopes", arrived, { timeoutMs: 120_000, everyMs: 2 });
        await untilIdle(server);
        if (number < 3) continue;
        const arrivals = watchers.map(({ arrivals }) => arrivals.get(number) - appended.begun);
        took.deliveries.push(...arrivals);
        took.all.push(Math.max(...arrivals));
      }
    }
    for (const watcher of watchers) watcher.close();
    const ratio = median(took.followed) / median(took.alone);
    console.log(`${count} sessions (${shell}), ${rounds - 3} appends:`);
    console.log(`  append without sessions: ${times(took.alone)}`);
    console.log(`  append with ${count}: ${times(took.followed)}; ratio of p50 ${ratio.toFixed(3)}`);
    console.log(`  from the append to the arrival, ${watchers.length} of them: ${times(took.deliveries)}`);
    console.log(`  until the last of these: ${times(took.all)}`);
  } finally {
    await server.stop();
  }
}

/** Counts what a delivery needs: by calls of the stream, and through the queue. */
async function cost(usesQueue) {
  const [count, appends] = [20, 20];
  const env = { FANOUT_QUEUE_THRESHOLD: usesQueue ? 0 : count };
  const server = await startServer({ queue: true, env });
  try {
    const stream = await jsonStream(server.url);
    const sessions = await following(server.url, stream, count);
    const streams = sessions.map(
      (each) => new Stream(server.url, `subscriptions/${each}`, "application/json"),
    );
    const delivered = async (number) => {
      await stream.append(String(number));
      const all = async () => {
        const contents = await Promise.all(streams.map((each) => each.messages()));
        return contents.every((envelopes) => envelopes.length > number);
      };
      await eventually("all envelopes", all);
    };
    const total = async () => {
      const all = await Promise.all(streams.map((each) => each.statistics()));
      const sum = (field) => all.reduce((sum, each) => sum + each[field], 0);
      const own = await stream.statistics();
      const { messages, acknowledged } = await server.queue.counts();
      return {
        rows: sum("rows_written"),
        fetches: sum("calls_sent"),
        ownRows: own.rows_written,
        calls: own.calls_sent,
        messages,
        acknowledged,
      };
    };
    // The first ones write how far all sessions are, and when they were used.
    for (let number = 0; number < 3; number += 1) await delivered(number);
    const before = await total();
    for (let number = 3; number < 3 + appends; number += 1) await delivered(number);
    const after = await total();
    const of = (field) => (after[field] - before[field]) / (appends * count);
    const [rows, fetches, calls, messages] = ["rows", "fetches", "calls", "messages"].map(of);
    const requests = fetches + calls + messages;
    const operations = messages * operationsOfMessage;
    const dollars =
      rows * price.rowWritten +
      requests * price.objectRequest +
      operations * price.queueOperation;
    console.log(
      `a delivery ${usesQueue ? "through the queue" : "by the stream"}: ` +
        `${rows.toFixed(2)} rows, ${requests.toFixed(2)} calls of objects, ` +
        `${operations.toFixed(2)} operations of the queue: $${(dollars * 1e6).toFixed(2)} a million; ` +
        `rows of the stream for each append: ${((after.ownRows - before.ownRows) / appends).toFixed(2)}`,
    );
  } finally {
    await server.stop();
  }
}

if (shell === "worker") {
  await cost(false);
  await cost(true);
}
for (const count of counts) await measure(count);
