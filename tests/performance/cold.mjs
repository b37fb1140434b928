// Run by hand: node tests/performance/cold.mjs [offsets] [rows] [middle] [catch-up]
//
// Measures cold storage on R2 and D1 as wrangler runs them, in the server's process. With
// TEST_SHELL=server it measures the server for one machine, which has no rows, with its directory.
//
// offsets   every offset that 16 writers were given is read from, with tiny segments
// rows      rows, R2 operations and dollars for a million appends of 100 bytes, at default limits
// middle    the bytes that a read from the middle of a 64 MiB segment fetches
// catch-up  the speed and the memory of reading 64 and 256 MiB of cold data

import http from "node:http";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { eventually, request } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";
import { Connection, prepare } from "./load.mjs";

const range = (count) => Array.from({ length: count }, (_, index) => index);
const mebibyte = 1 << 20;
const bytes = { contentType: "application/octet-stream" };
const json = { contentType: "application/json" };

async function withServer(options, act) {
  const server = await startServer({ cold: true, ...options });
  try {
    await act(server);
  } finally {
    await server.stop();
  }
}

const segmentsOf = (server, stream) => server.coldTier.segmentsOf(stream);

/**
 * The stored segments and the number of puts. The released server has fewer statistics than the one
 * for tests.
 */
const storedCount = async (server, stream) =>
  (shell === "server"
    ? await server.coldTier.objectsOf(stream.name)
    : await segmentsOf(server, stream)
  ).length;

async function putCount(server) {
  if (shell !== "server") return (await server.coldTier.counts()).put?.operations ?? 0;
  return Number(
    /^durable_streams_cold_puts_total (\d+)/m.exec((await request(server.url, "/metrics")).text)[1],
  );
}

async function untilAllCold(server, stream) {
  const { offset } = await stream.head();
  const sealed = Number(offset.slice(0, 16));
  await eventually(
    "every sealed segment to be stored",
    async () => (await storedCount(server, stream)) >= sealed,
    { timeoutMs: 120_000 },
  );
}

async function inParallel(items, width, act) {
  const waiting = items[Symbol.iterator]();
  await Promise.all(
    range(width).map(async () => {
      for (const item of waiting) await act(item);
    }),
  );
}

async function offsets() {
  const [writers, appends] = [16, 3_500];
  await withServer(
    { env: { SEGMENT_MAX_MESSAGES: 40, MAX_CHUNK_BYTES: 1_024, INDEX_STEP_BYTES: 256 } },
    async (server) => {
      const stream = await Stream.create(server.url, json);
      const agent = new http.Agent({ keepAlive: true });
      const acknowledged = [];
      const begun = performance.now();
      await Promise.all(
        range(writers).map(async (writer) => {
          for (const index of range(appends)) {
            const answer = await stream.append(`[[${writer},${index}]]`, {}, { agent });
            if (answer.status !== 204)
              throw new Error(`an append answered ${answer.status}: ${answer.text}`);
            acknowledged.push({ offset: answer.offset, key: `${writer},${index}` });
          }
        }),
      );
      const wrote = performance.now() - begun;
      await untilAllCold(server, stream);
      const all = (await stream.messages()).map((message) => message.join());
      const place = new Map(all.map((key, index) => [key, index]));
      let wrong = writers * appends - place.size;
      await inParallel(acknowledged, 16, async ({ offset, key }) => {
        const page = await stream.request("GET", { query: `?offset=${offset}`, agent });
        const following = all[place.get(key) + 1];
        if (page.status !== 200 || page.json()[0]?.join() !== following) wrong += 1;
      });
      agent.destroy();
      const segments = (await segmentsOf(server, stream)).length;
      console.log(
        `offsets: ${writers} writers x ${appends} appends into ${segments} segments in ${(wrote / 1_000).toFixed(1)} s; ` +
          `${acknowledged.length} acknowledged offsets read from, ${wrong} wrong or lost`,
      );
      if (wrong > 0) process.exitCode = 1;
    },
  );
}

async function rows() {
  const count = 100_000;
  await withServer({}, async (server) => {
    const stream = await Stream.create(server.url, bytes);
    const connections = await Promise.all(range(32).map(() => Connection.open(server.url)));
    const append = prepare(
      server.url,
      "POST",
      stream.path,
      { "Content-Type": bytes.contentType },
      "x".repeat(100),
    );
    const before = await stream.statistics();
    let sent = 0;
    await Promise.all(
      connections.map(async (connection) => {
        while (sent < count) {
          sent += 1;
          const status = await connection.send(append);
          if (status !== 204) throw new Error(`an append answered ${status}`);
        }
        connection.close();
      }),
    );
    await untilAllCold(server, stream);
    const after = await stream.statistics();
    if (after.instance !== before.instance) throw new Error("the object was restarted");
    const counts = await server.coldTier.counts();
    const segments = await segmentsOf(server, stream);
    const written = after.rows_written - before.rows_written;
    const alarms = after.alarms_set - before.alarms_set;
    const inSegments = segments.reduce((sum, row) => sum + row.messages, 0);
    console.log(
      `rows: ${count} appends of 100 B; ${segments.length} segment(s) sealed, stored and dropped, with ${inSegments} of them; ` +
        `${written} rows written and ${alarms} alarm(s) set: ${((written + alarms) / count).toFixed(5)} per append`,
    );
    const puts = counts.put.operations / inSegments;
    const rowsRead = (after.rows_read - before.rows_read) / count;
    // Dollars for a million appends by the platform's prices: requests to the Worker and to the
    // object, 1.5 ms of processor and 5 ms of the object's time for each, rows, and puts. Alarms
    // are billed as rows and as requests.
    const dollars = {
      "Worker requests": 0.3,
      "object requests": 0.15,
      "processor and duration": 1.5 * 0.02 + 0.005 * 0.128 * 12.5,
      "rows written": (written + alarms) / count,
      "rows read": rowsRead * 0.001,
      "R2 puts": puts * 4.5,
      "D1 rows": (segments.length / inSegments) * 1,
    };
    const sum = Object.values(dollars).reduce((total, each) => total + each, 0);
    for (const [what, each] of Object.entries(dollars))
      console.log(`  ${what.padEnd(24)} $${each.toFixed(5)} for a million appends`);
    console.log(`  ${"sum".padEnd(24)} $${sum.toFixed(3)}`);
    console.log(
      `  R2 class A operations: ${((counts.put.operations * 1e9) / (inSegments * 100)).toFixed(0)} for 1 GB of such payload`,
    );
  });
}

async function fill(stream, size, chunk) {
  const body = Buffer.alloc(chunk);
  for (let at = 0, index = 0; at < size; at += chunk, index += 1) {
    body.fill(index % 251);
    const answer = await stream.append(body);
    if (answer.status !== 204)
      throw new Error(`an append answered ${answer.status}: ${answer.text}`);
  }
}

async function middle() {
  await withServer({ env: { SEGMENT_MAX_BYTES: 64 * mebibyte } }, async (server) => {
    const binary = await Stream.create(server.url, bytes);
    await fill(binary, 64 * mebibyte, mebibyte);
    const messages = await Stream.create(server.url, json);
    const agent = new http.Agent({ keepAlive: true });
    const message = JSON.stringify({ text: "x".repeat(10_000) });
    await inParallel(range(Math.ceil((64 * mebibyte) / message.length)), 16, () =>
      messages.append(message, {}, { agent }),
    );
    agent.destroy();
    for (const stream of [binary, messages]) {
      await untilAllCold(server, stream);
      const [{ end_offset, bytes: stored }] = await segmentsOf(server, stream);
      const units = Number(end_offset.slice(17));
      for (const share of [0.25, 0.5, 0.75]) {
        const before = (await server.coldTier.counts()).get ?? { operations: 0, bytes: 0 };
        const offset = `${"0".repeat(16)}_${String(Math.floor(units * share) + 1).padStart(16, "0")}`;
        const page = await stream.read(offset);
        if (page.status !== 200) throw new Error(`GET answered ${page.status}: ${page.text}`);
        const after = (await server.coldTier.counts()).get;
        const fetched = after.bytes - before.bytes;
        console.log(
          `middle: ${stream.contentType}, segment of ${(stored / mebibyte).toFixed(1)} MiB, at ${share}: ${after.operations - before.operations} GET of ` +
            `${fetched} bytes for ${page.body.length} answered: ${(fetched / page.body.length).toFixed(3)}`,
        );
      }
    }
  });
}

// Peak and present resident memory, from Linux.
function memory(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const mebibytes = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)[1]) / 1024;
  return { peak: mebibytes("VmHWM"), now: mebibytes("VmRSS") };
}

/** Reads a stream to its end and discards it. */
async function drain(server, stream) {
  let [total, pages] = [0, 0];
  for (let next = "-1"; ;) {
    const page = await request(server.url, `${stream.path}?offset=${next}`);
    if (page.status !== 200) throw new Error(`GET answered ${page.status}: ${page.text}`);
    total += page.body.length;
    pages += 1;
    if (page.upToDate === "true") return { total, pages };
    next = page.offset;
  }
}

async function catchUp() {
  // Uses a real disk, not a file system in memory.
  const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-catch-up-"));
  await withServer(
    {
      bundle: "target/worker",
      dataDirectory: path.join(dataDirectory, "data"),
      cold: shell === "server" ? "directory" : true,
    },
    async (server) => {
      for (const size of [64, 256]) {
        const stream = await Stream.create(server.url, bytes);
        const before = await putCount(server);
        const began = performance.now();
        await fill(stream, size * mebibyte, mebibyte / 4);
        await stream.close();
        await untilAllCold(server, stream);
        const segments = await storedCount(server, stream);
        await eventually(
          "every put to be known",
          async () => (await putCount(server)) - before >= segments,
        );
        const filled = performance.now() - began;
        const puts = (await putCount(server)) - before;
        const start = memory(server.pid).now;
        // Resets the peak.
        writeFileSync(`/proc/${server.pid}/clear_refs`, "5");
        const begun = performance.now();
        const { total, pages } = await drain(server, stream);
        const seconds = (performance.now() - begun) / 1_000;
        if (total !== size * mebibyte) throw new Error(`read ${total} bytes`);
        const { peak } = memory(server.pid);
        console.log(
          `catch-up: ${size} MiB in ${segments} segments, written and stored in ${(filled / 1_000).toFixed(1)} s, ` +
            `${puts} puts, ${((puts * 1e9) / (size * mebibyte)).toFixed(0)} for 1 GB; read in ${pages} pages in ${seconds.toFixed(2)} s: ` +
            `${(total / 1e6 / seconds).toFixed(0)} MB/s; resident ${start.toFixed(0)} MiB before, at most ${peak.toFixed(0)} MiB while reading`,
        );
        await stream.delete();
      }
    },
  );
  await rm(dataDirectory, { recursive: true, force: true });
}

const figures = { offsets, rows, middle, "catch-up": catchUp };
const asked = process.argv.slice(2);
for (const name of asked.length > 0 ? asked : Object.keys(figures)) {
  if (!(name in figures))
    throw new Error(`no such figure: ${name}; there are ${Object.keys(figures).join(", ")}`);
  await figures[name]();
}
