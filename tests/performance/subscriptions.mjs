// What subscriptions cost the server for one machine.
//
//   node tests/performance/subscriptions.mjs [--subscriptions 5000] [--rounds 20] [BINARY]
//
// First: the time of an append of 100 bytes by one writer, without subscriptions and with many of
// one stream, in alternating rounds. Nobody claims the wakes, so that the subscriptions stay busy
// and the stream tells them nothing more. Before that, how long the first append takes, and how
// long it takes until all subscriptions are woken. Then the time from an append to the arrival of
// its webhook, and to the cursor at the tail. All of it uses loopback only.

import http from "node:http";
import path from "node:path";
import { parseArgs } from "node:util";
import { eventually, request } from "../harness/http.mjs";
import { startOneMachine } from "../harness/one-machine.mjs";
import { repositoryRoot } from "../harness/server.mjs";
import { freshName, Stream } from "../harness/stream.mjs";
import { Connection, median, prepare, processorMs, quantile } from "./load.mjs";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    subscriptions: { type: "string", default: "5000" },
    rounds: { type: "string", default: "20" },
    ms: { type: "string", default: "1000" },
    webhooks: { type: "string", default: "200" },
  },
});
const count = Number(options.subscriptions);
const json = { "Content-Type": "application/json" };
const payload = JSON.stringify("x".repeat(98));
const warmMs = 500;
const creationsAtOnce = 16;

const times = (list) =>
  `p50 ${median(list).toFixed(3)} ms, p99 ${quantile(list, 0.99).toFixed(3)} ms`;

async function subscribe(base, id, body) {
  const answer = await request(base, `/v1/stream/__ds/subscriptions/${id}`, {
    method: "PUT",
    headers: json,
    body: JSON.stringify(body),
  });
  if (answer.status !== 201) throw new Error(`PUT answered ${answer.status}: ${answer.text}`);
}

async function jsonStream(base, name) {
  const stream = new Stream(base, name, "application/json");
  await stream.put({ body: "[]" });
  return stream;
}

/** Appends for a time, and returns how long each append took. */
async function load(stream, ms) {
  const connection = await Connection.open(stream.base);
  const append = prepare(stream.base, "POST", stream.path, json, payload);
  const took = [];
  const begun = performance.now();
  for (let at = begun; at - begun < ms;) {
    const status = await connection.send(append);
    if (status !== 204) throw new Error(`an append answered ${status}`);
    const next = performance.now();
    took.push(next - at);
    at = next;
  }
  connection.close();
  return took;
}

async function appends(server) {
  const alone = await jsonStream(server.url, freshName("alone"));
  const followed = await jsonStream(server.url, freshName("followed"));
  const wakes = await jsonStream(server.url, freshName("wakes"));
  const body = { type: "pull-wake", streams: [followed.name], wake_stream: wakes.name };
  let created = 0;
  await Promise.all(
    Array.from({ length: creationsAtOnce }, async () => {
      while (created < count) {
        created += 1;
        await subscribe(server.url, `each-${created}`, body);
      }
    }),
  );

  const begun = performance.now();
  const processorBegun = processorMs(server.pid);
  await followed.append(payload);
  const first = performance.now() - begun;
  const woken = async () => (await wakes.messages()).length === count;
  await eventually("all wakes", woken, { timeoutMs: 300_000, everyMs: 20 });
  const all = (performance.now() - begun) / 1_000;
  const processor = (processorMs(server.pid) - processorBegun) / 1_000;
  console.log(
    `the append that woke ${count} subscriptions: ${first.toFixed(1)} ms; ` +
      `all were woken after ${all.toFixed(2)} s, with ${processor.toFixed(2)} s of a processor`,
  );

  const kinds = [alone, followed];
  for (const stream of kinds) await load(stream, warmMs);
  const results = kinds.map(() => []);
  const ratios = [];
  for (let round = 0; round < Number(options.rounds); round += 1) {
    const order = round % 2 === 0 ? [0, 1] : [1, 0];
    const of = [];
    for (const kind of order) {
      const took = await load(kinds[kind], Number(options.ms));
      results[kind].push(...took);
      of[kind] = median(took);
    }
    ratios.push(of[1] / of[0]);
  }
  for (const [kind, subscriptions] of [0, count].entries()) {
    const took = results[kind];
    console.log(`with ${subscriptions} subscriptions: ${took.length} appends, ${times(took)}`);
  }
  const ratio = median(results[1]) / median(results[0]);
  console.log(
    `ratio of p50: ${ratio.toFixed(3)}; median of the rounds' ${median(ratios).toFixed(3)}`,
  );
}

async function webhooks(server) {
  let arrived;
  const receiver = http.createServer((incoming, outgoing) => {
    incoming.resume().on("end", () => {
      arrived(performance.now());
      outgoing.writeHead(200).end('{"done":true}');
    });
  });
  await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${receiver.address().port}/`;
  const stream = await jsonStream(server.url, freshName("hooked"));
  const id = freshName("hook");
  await subscribe(server.url, id, { type: "webhook", streams: [stream.name], webhook: { url } });
  const took = { arrival: [], cursor: [] };
  for (let each = 0; each < Number(options.webhooks); each += 1) {
    const arrival = new Promise((resolve) => {
      arrived = resolve;
    });
    const begun = performance.now();
    const { offset } = await stream.append(payload);
    took.arrival.push((await arrival) - begun);
    const isAcknowledged = async () => {
      const described = await request(server.url, `/v1/stream/__ds/subscriptions/${id}`);
      return described.json().streams[0].acked_offset === offset;
    };
    await eventually("the cursor at the tail", isAcknowledged, { everyMs: 0 });
    took.cursor.push(performance.now() - begun);
  }
  console.log(`${options.webhooks} webhooks, each after the one before:`);
  console.log(`from the append to the arrival: ${times(took.arrival)}`);
  console.log(`from the append to the cursor at the tail: ${times(took.cursor)}`);
  receiver.closeAllConnections();
  await new Promise((resolve) => receiver.close(resolve));
}

const server = await startOneMachine({
  binary: path.resolve(repositoryRoot, positionals[0] ?? "target/server/durable-streams"),
  env: { WEBHOOK_ALLOW_LOOPBACK: "1" },
});
try {
  await webhooks(server);
  await appends(server);
} finally {
  await server.stop();
}
