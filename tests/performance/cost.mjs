// Run as `cargo xtask cost`. Prints what one stream costs in a month on Cloudflare, from figures
// that it counts on workerd and from Cloudflare's price list.
//
// Counted: rows written, alarms set, puts and stored bytes, the processor time of an append, and
// the share of the time in which the object is busy. Each sync of a file takes 10 ms longer than
// here, as it does in production, where a commit is replicated. Needs a C compiler and Linux.
//
// Beside this design stands the plain one: a row each for the message, the stream's metadata and
// the producer, and readers whose connections the object holds, so that it never sleeps.

import { parseArgs } from "node:util";
import { eventually, sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";
import { Connection, prepare, processorMs, slowSyncs } from "./load.mjs";

const usage = {
  "appends-per-second": { least: 0.1, greatest: 5_000 },
  bytes: { least: 1, greatest: 1_000_000 },
  writers: { least: 1, greatest: 256 },
  readers: { least: 0, greatest: 500 },
  days: { least: 1, greatest: 3_650 },
};

function parsed() {
  const { values } = parseArgs({
    options: Object.fromEntries(Object.keys(usage).map((name) => [name, { type: "string" }])),
  });
  return Object.fromEntries(
    Object.entries(usage).map(([name, { least, greatest }]) => {
      const value = Number(values[name]);
      if (!(least <= value && value <= greatest))
        throw new Error(`--${name} must be a number from ${least} to ${greatest}`);
      return [name, value];
    }),
  );
}

const load = parsed();
const rate = load["appends-per-second"];

// Dollars, as of November 2026: developers.cloudflare.com/workers/platform/pricing,
// /durable-objects/platform/pricing and /r2/pricing. What a plan includes is not subtracted.
const price = {
  workerRequest: 0.3e-6,
  processorMs: 0.02e-6,
  objectRequest: 0.15e-6,
  gigabyteSecond: 12.5e-6,
  rowWritten: 1e-6,
  objectGigabyteMonth: 0.2,
  r2GigabyteMonth: 0.015,
  r2Put: 4.5e-6,
};
const objectGigabytes = 0.128;
const syncMs = 10;
const daySeconds = 86_400;
const monthSeconds = 30 * daySeconds;
const segmentBytes = 8 << 20;
const readerLifeSeconds = 60;

const contentType = "application/octet-stream";
const body = "x".repeat(load.bytes);

class Writer {
  #seq = 0;

  constructor(base, path, id, connection) {
    Object.assign(this, { base, path, id, connection });
  }

  static async open(base, path, id) {
    return new Writer(base, path, id, await Connection.open(base));
  }

  async append() {
    const headers = {
      "Content-Type": contentType,
      "Producer-Id": this.id,
      "Producer-Epoch": "0",
      "Producer-Seq": String(this.#seq),
    };
    this.#seq += 1;
    const status = await this.connection.send(
      prepare(this.base, "POST", this.path, headers, body),
    );
    if (status !== 200) throw new Error(`an append answered ${status}`);
  }
}

/** Returns numbers between 0 and 1, the same in each run. */
function* random() {
  for (let state = 1; ; ) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    yield (state + 1) / 2 ** 32;
  }
}

/** The time in which at least one request was in progress. */
class Busy {
  ms = 0;
  #inside = 0;
  #since = 0;

  enter() {
    if (this.#inside === 0) this.#since = performance.now();
    this.#inside += 1;
  }

  leave() {
    this.#inside -= 1;
    if (this.#inside === 0) this.ms += performance.now() - this.#since;
  }
}

/** Appends at the rate of the load, at random times, and counts what an append needs. */
async function appendsAtRate() {
  slowSyncs(syncMs);
  const server = await startServer();
  const reading = new AbortController();
  try {
    const stream = await Stream.create(server.url, { contentType });
    const readers = Array.from({ length: load.readers }, async () => {
      const answer = await fetch(`${stream.url}?offset=now&live=sse`, { signal: reading.signal });
      for await (const piece of answer.body) void piece;
    });
    const read = Promise.allSettled(readers);
    await eventually(
      "every reader is attached",
      async () => (await stream.statistics()).subscribers === load.readers,
    );
    const writers = await Promise.all(
      Array.from({ length: load.writers }, (_, index) =>
        Writer.open(server.url, stream.path, `writer-${index}`),
      ),
    );
    for (const writer of writers) await writer.append();
    const before = await stream.statistics();
    const processorBegun = processorMs(server.pid);
    const seconds = Math.min(60, Math.max(10, 100 / rate));
    const begun = performance.now();
    const busy = new Busy();
    const dice = random();
    let appends = 0;
    await Promise.all(
      writers.map(async (writer) => {
        const gapMs = () => (-Math.log(dice.next().value) * load.writers * 1_000) / rate;
        for (let due = begun + gapMs(); due < begun + seconds * 1_000; due += gapMs()) {
          const waitMs = due - performance.now();
          if (waitMs > 0) await sleep(waitMs);
          busy.enter();
          await writer.append();
          busy.leave();
          appends += 1;
        }
      }),
    );
    const ms = performance.now() - begun;
    if (appends === 0) throw new Error("the load is too small to be counted");
    if (ms > seconds * 1_500) throw new Error("the server cannot keep up with this many appends");
    const after = await stream.statistics();
    if (after.instance !== before.instance) throw new Error("the object was restarted");
    for (const { connection } of writers) connection.close();
    reading.abort();
    await read;
    return {
      appends,
      rows: (after.rows_written - before.rows_written) / appends,
      alarms: (after.alarms_set - before.alarms_set) / appends,
      processorMs: (processorMs(server.pid) - processorBegun) / appends,
      busy: busy.ms / ms,
    };
  } finally {
    await server.stop();
  }
}

/** Counts what sealing and storing a segment needs beside its appends. */
async function segments() {
  slowSyncs(0);
  const counted = 8;
  const server = await startServer({ cold: true, env: { SEGMENT_MAX_MESSAGES: 8 } });
  try {
    const stream = await Stream.create(server.url, { contentType });
    const writers = await Promise.all(
      Array.from({ length: load.writers }, (_, index) =>
        Writer.open(server.url, stream.path, `writer-${index}`),
      ),
    );
    let appends = 0;
    const stored = async (least) => {
      for (;;) {
        const objects = await server.coldTier.objectsOf(stream.name);
        if (objects.length >= least) return objects;
        await writers[appends % writers.length].append();
        appends += 1;
      }
    };
    await stored(1);
    await sleep(1_000);
    const [from, before] = [appends, await stream.statistics()];
    const objects = await stored((await stored(1)).length + counted);
    await sleep(1_000);
    const after = await stream.statistics();
    const sealed = (await server.coldTier.objectsOf(stream.name)).length;
    const rows = after.rows_written - before.rows_written + after.alarms_set - before.alarms_set;
    const total = objects.reduce((sum, { size }) => sum + size, 0);
    return {
      rows: (rows - (appends - from)) / (sealed - objects.length + counted),
      // Without the parts of an object that do not grow with it.
      bytesOfAppend: Math.max(load.bytes, total / appends),
    };
  } finally {
    await server.stop();
  }
}

const counts = await appendsAtRate();
const segment = await segments();

const appends = rate * monthSeconds;
const sealedSegments = (appends * segment.bytesOfAppend) / segmentBytes;
const connects = (load.readers * monthSeconds) / readerLifeSeconds;
const keptGigabytes = (rate * load.days * daySeconds * load.bytes) / 1e9;
const gigabyteSeconds = (share) => share * objectGigabytes * monthSeconds;

const lines = [
  ["requests to the Worker", appends + connects, appends + connects, price.workerRequest],
  ["requests to the object", appends + connects, appends + connects, price.objectRequest],
  [
    "rows written",
    appends * (counts.rows + counts.alarms) + sealedSegments * segment.rows,
    appends * 3,
    price.rowWritten,
  ],
  [
    "GB-s of the object",
    gigabyteSeconds(counts.busy),
    gigabyteSeconds(load.readers > 0 ? 1 : counts.busy),
    price.gigabyteSecond,
  ],
  ["ms of processor", appends * counts.processorMs, appends * counts.processorMs, price.processorMs],
  ["puts to R2", sealedSegments, 0, price.r2Put],
  ["GB-months in R2", keptGigabytes, 0, price.r2GigabyteMonth],
  ["GB-months in the object", 0, keptGigabytes, price.objectGigabyteMonth],
];

const dollars = (amount) => amount.toFixed(2);
const amount = (count) => (count < 10 ? count.toFixed(2) : Math.round(count).toLocaleString("en"));

console.log(
  `${rate} appends/s of ${load.bytes} bytes by ${load.writers} writers, ${load.readers} SSE readers, kept ${load.days} days`,
);
console.log(
  `counted over ${counts.appends} appends: ${counts.rows.toFixed(3)} rows, ${counts.alarms.toFixed(3)} alarms and ${counts.processorMs.toFixed(2)} ms of processor for each; the object busy for ${(100 * counts.busy).toFixed(1)} % of the time; ${segment.rows.toFixed(1)} rows for each segment of 8 MiB\n`,
);
console.log("| in 30 days | this design | $ | plain design | $ |");
console.log("| --- | --- | --- | --- | --- |");
let [own, plain] = [0, 0];
for (const [what, ours, theirs, each] of lines) {
  own += ours * each;
  plain += theirs * each;
  console.log(
    `| ${what} | ${amount(ours)} | ${dollars(ours * each)} | ${amount(theirs)} | ${dollars(theirs * each)} |`,
  );
}
console.log(`| all | | ${dollars(own)} | | ${dollars(plain)} |`);
const million = 1e6 / appends;
console.log(
  `\na million appends: $${dollars(own * million)}, plain $${dollars(plain * million)}`,
);
