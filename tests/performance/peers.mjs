// Compares this server with other servers of the same protocol, on the same disk, with the same
// load generators, in turns. `cargo xtask perf --peers` installs and builds the servers, and runs
// this. tests/performance/README.md has the measurements and the results.
//
// On a small machine client and server share the processors, so that ratios say more than absolute
// figures.

import { execFile, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { parseArgs, promisify } from "node:util";
import { request, sleep } from "../harness/http.mjs";
import { repositoryRoot } from "../harness/server.mjs";
import { Connection, median, prepare, quantile } from "./load.mjs";
import { servers, startPeer } from "./peers/servers.mjs";

const run = promisify(execFile);
const range = (count) => Array.from({ length: count }, (_, index) => index);

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    seconds: { type: "string", default: "2" },
    only: { type: "string", multiple: true },
    server: { type: "string", multiple: true },
  },
});
const rounds = Number(options.rounds);
const seconds = Number(options.seconds);
const compared = servers.filter(
  ({ name }) => !options.server || options.server.some((part) => name.includes(part)),
);

const script = path.join(repositoryRoot, "tests/performance/peers/requests.lua");
const fanOut = path.join(repositoryRoot, "target/release/fan-out");
const report = path.join(repositoryRoot, "target/reports/peers.json");
const text = { "Content-Type": "text/plain" };

const appendBytes = 100;
const appendConnections = [1, 64, 256];
const spread = 64;
const many = 10_000;
const creators = 64;
const restartStreams = 100_000;
const readConnections = 16;
const pages = [
  { name: "1 KB", messages: 10, bytes: 100 },
  { name: "1 MB", messages: 1_000, bytes: 1_000 },
];
const fanOutSeconds = 2;
const fanOuts = [
  { readers: 100, appends: 100 },
  { readers: 1_000, appends: 60 },
];
const quietStreams = 5_000;
// With more, the Node reference fails (see `appendLoad`).
const quietWriters = 2;
const quietReaders = 1_000;
const settleMs = 1_500;
// After this time without a request a stream counts as quiet. Servers may free memory meanwhile.
const quietMs = 60_000;

const streamPath = (name) => `/v1/stream/${name}`;

function expectStatus(what, status, ...expected) {
  if (!expected.includes(status)) throw new Error(`${what} answered ${status}`);
}

async function create(server, name) {
  expectStatus(
    "PUT",
    (await request(server.url, streamPath(name), { method: "PUT", headers: text })).status,
    201,
  );
}

async function append(server, name, body) {
  expectStatus(
    "POST",
    (await request(server.url, streamPath(name), { method: "POST", headers: text, body })).status,
    200,
    204,
  );
}

async function remove(server, name) {
  expectStatus(
    "DELETE",
    (await request(server.url, streamPath(name), { method: "DELETE" })).status,
    200,
    204,
  );
}

/** Reads a stream, and returns its length. */
async function stored(server, name) {
  let offset = "-1";
  let bytes = 0;
  for (;;) {
    const page = await request(server.url, `${streamPath(name)}?offset=${offset}`);
    expectStatus("GET", page.status, 200);
    bytes += page.body.length;
    if (page.upToDate === "true") return bytes;
    offset = page.offset;
  }
}

// User and system time of a process with all its threads, from Linux's clock of 100 ticks a second.
function processorMs(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

function residentBytes(pid) {
  const found = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  return Number(found[1]) * 1_024;
}

/**
 * Runs wrk, and returns its counts. Throws if any request failed or was not answered.
 */
async function load(
  server,
  { connections, method, name, query = "", streams, body = 0, lasting = seconds },
) {
  const processorBegun = processorMs(server.pid);
  const parameters = [
    "--threads",
    "1",
    "--connections",
    connections,
    "--duration",
    `${lasting}s`,
    "--timeout",
    "5s",
    "--script",
    script,
  ];
  const { stdout } = await run(
    "wrk",
    [...parameters, server.url, "--", method, streamPath(name), query || "?", streams, body].map(
      String,
    ),
  );
  const processor = processorMs(server.pid) - processorBegun;
  const counted = JSON.parse(stdout.trim().split("\n").at(-1));
  const failed = Object.entries(counted.failed).filter(([, count]) => count > 0);
  if (failed.length > 0 || counted.requests === 0) {
    throw new Error(
      `${server.name}: ${counted.requests} answers at ${connections} connections, failed: ${JSON.stringify(counted.failed)}`,
    );
  }
  return {
    requests: counted.requests,
    received: counted.bytes,
    rate: (counted.requests * 1e6) / counted.microseconds,
    p50: counted.p50 / 1_000,
    p99: counted.p99 / 1_000,
    processor: (processor * 1_000) / counted.requests,
  };
}

/**
 * Appends under load. Then checks that everything acknowledged is stored, and nothing that was not
 * sent.
 */
async function appendLoad(server, name, connections, streams, lasting) {
  for (const stream of range(streams)) await create(server, `${name}${stream + 1}`);
  const counted = await load(server, {
    connections,
    method: "POST",
    name,
    streams,
    body: appendBytes,
    lasting,
  });
  let bytes = 0;
  for (const stream of range(streams)) bytes += await stored(server, `${name}${stream + 1}`);
  const appended = bytes / appendBytes;
  // Requests that run at the end are stored but not counted.
  if (appended < counted.requests || appended > counted.requests + connections) {
    throw new Error(
      `${server.name}: ${counted.requests} appends were acknowledged and ${appended} are stored`,
    );
  }
  // The Node reference keeps 100 files open. With more streams, it answers 404 to an append whose
  // file it closes meanwhile.
  for (const stream of range(streams)) await remove(server, `${name}${stream + 1}`);
  return counted;
}

async function appends(server) {
  await appendLoad(server, "warm", 64, 8, 1);
  const results = {};
  for (const streams of [1, spread]) {
    for (const connections of appendConnections) {
      const counted = await appendLoad(
        server,
        `append-${streams}-${connections}-`,
        connections,
        streams,
      );
      results[`${streams}/${connections}`] = counted;
    }
  }
  return results;
}

async function reads(server) {
  const results = {};
  for (const { name, messages, bytes } of pages) {
    const stream = `page-${messages}-`;
    await create(server, `${stream}1`);
    for (const _ of range(messages)) await append(server, `${stream}1`, "x".repeat(bytes));
    const first = await request(server.url, `${streamPath(`${stream}1`)}?offset=-1`);
    expectStatus("GET", first.status, 200);
    if (first.body.length !== messages * bytes)
      throw new Error(`${server.name}: a page of ${name} has ${first.body.length} bytes`);
    const counted = await load(server, {
      connections: readConnections,
      method: "GET",
      name: stream,
      query: "?offset=-1",
      streams: 1,
    });
    if (counted.received < counted.requests * messages * bytes)
      throw new Error(`${server.name}: pages were cut`);
    results[name] = { ...counted, megabytes: (counted.rate * messages * bytes) / 1e6 };
  }
  return results;
}

const fanOutParameters = (server, name, readers) => [
  "--address",
  `127.0.0.1:${server.port}`,
  "--path",
  streamPath(name),
  "--readers",
  String(readers),
];

async function fanOutTimes(server) {
  const results = {};
  for (const { readers, appends: count } of fanOuts) {
    const name = `fan-out-${readers}`;
    await create(server, name);
    const { stdout } = await run(fanOut, [
      ...fanOutParameters(server, name, readers),
      "--appends",
      String(count),
      "--seconds",
      String(fanOutSeconds),
    ]);
    const { last_ms: last } = JSON.parse(stdout);
    results[readers] = { p50: median(last), p99: quantile(last, 0.99), appends: last.length };
  }
  return results;
}

/** Runs `act` while `count` readers wait at the tail of a stream. */
async function withReaders(server, name, readers, act) {
  const child = spawn(fanOut, [...fanOutParameters(server, name, readers), "--hold"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  let isReady = false;
  for await (const line of createInterface({ input: child.stdout })) {
    if (line !== "ready") continue;
    isReady = true;
    break;
  }
  if (!isReady) throw new Error(`${server.name}: the readers have not come to the tail`);
  const result = await act();
  child.stdin.end();
  await ended;
  return result;
}

async function memory(server) {
  await create(server, "warm");
  await append(server, "warm", "x".repeat(appendBytes));
  await sleep(quietMs);
  const empty = residentBytes(server.pid);
  const waiting = range(quietStreams)[Symbol.iterator]();
  const connections = await Promise.all(range(quietWriters).map(() => Connection.open(server.url)));
  await Promise.all(
    connections.map(async (connection) => {
      for (const index of waiting) {
        const target = streamPath(`quiet-${index}`);
        expectStatus("PUT", await connection.send(prepare(server.url, "PUT", target, text)), 201);
        expectStatus(
          "POST",
          await connection.send(prepare(server.url, "POST", target, text, "x".repeat(appendBytes))),
          200,
          204,
        );
      }
      connection.close();
    }),
  );
  await sleep(quietMs);
  const withStreams = residentBytes(server.pid);
  await create(server, "watched");
  const withAll = await withReaders(server, "watched", quietReaders, async () => {
    await sleep(settleMs);
    return residentBytes(server.pid);
  });
  return {
    empty,
    stream: (withStreams - empty) / quietStreams,
    reader: (withAll - withStreams) / quietReaders,
  };
}

/**
 * Counts the system calls of a process while `act` runs, without slowing it down.
 */
async function counted(pid, calls, act) {
  const directory = await mkdtemp(path.join(os.tmpdir(), "durable-streams-calls-"));
  const file = path.join(directory, "counts");
  const child = spawn(
    "perf",
    ["stat", "-x", ",", "-o", file, "-e", calls.join(","), "-p", String(pid)],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  const ended = new Promise((resolve, reject) => child.once("exit", resolve).once("error", reject));
  try {
    // By when it counts.
    await Promise.race([sleep(300), ended]);
    const result = await act();
    child.kill("SIGINT");
    await ended;
    const counts = {};
    for (const line of (await readFile(file, "utf8")).split("\n")) {
      const [count, , call] = line.split(",");
      if (calls.includes(call)) counts[call.replace(/^.*:(sys_enter_)?/, "")] = Number(count);
    }
    if (Object.keys(counts).length !== calls.length || Object.values(counts).some(Number.isNaN))
      throw new Error("perf cannot count system calls here");
    return { result, counts };
  } finally {
    child.kill("SIGKILL");
    await rm(directory, { recursive: true, force: true });
  }
}

/** The number of waits for the disk. */
async function syncs(server) {
  const waits = ["fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync"];
  const results = {};
  for (const streams of [1, spread]) {
    const name = `synced-${streams}-`;
    for (const stream of range(streams)) await create(server, `${name}${stream + 1}`);
    const { result, counts } = await counted(
      server.pid,
      ["raw_syscalls:sys_enter", ...waits.map((call) => `syscalls:sys_enter_${call}`)],
      () => load(server, { connections: 64, method: "POST", name, streams, body: appendBytes }),
    );
    const { sys_enter: all, ...called } = counts;
    const waited = Object.values(called).reduce((sum, each) => sum + each, 0);
    results[streams] = {
      each: waited / result.requests,
      all: all / result.requests,
      rate: result.rate,
      called,
    };
  }
  return results;
}

/** Sends `method` to the first `count` streams of a name, over several connections. */
async function each(server, method, name, count, ...expected) {
  const waiting = range(count)[Symbol.iterator]();
  const connections = await Promise.all(range(creators).map(() => Connection.open(server.url)));
  const begun = performance.now();
  await Promise.all(
    connections.map(async (connection) => {
      for (const stream of waiting) {
        const target = streamPath(`${name}${stream + 1}`);
        const status = await connection.send(prepare(server.url, method, target, text));
        expectStatus(method, status, ...expected);
      }
    }),
  );
  const took = performance.now() - begun;
  for (const connection of connections) connection.close();
  return (count * 1_000) / took;
}

/** What all files of a directory take on the disk. */
async function bytesOnDisk(directory) {
  const { stdout } = await run("du", ["--summarize", "--block-size=1", directory]);
  return Number(stdout.split("\t")[0]);
}

/** The bytes in all streams of a name. */
async function storedInAll(server, name, count) {
  const waiting = range(count)[Symbol.iterator]();
  let bytes = 0;
  await Promise.all(
    range(8).map(async () => {
      for (const stream of waiting) {
        const length = await stored(server, `${name}${stream + 1}`);
        bytes += length;
      }
    }),
  );
  return bytes;
}

/** Creates many streams, and appends to all of them in turn. */
async function manyStreams(server) {
  const name = "many-";
  const diskBefore = await bytesOnDisk(server.data);
  const results = { created: await each(server, "PUT", name, many, 201) };
  results.disk = ((await bytesOnDisk(server.data)) - diskBefore) / many;
  let before = 0;
  for (const connections of server.opensFewFiles ? [1] : appendConnections) {
    const counted = await load(server, {
      connections,
      method: "POST",
      name,
      streams: many,
      body: appendBytes,
    });
    const after = await storedInAll(server, name, many);
    const appended = (after - before) / appendBytes;
    if (appended < counted.requests || appended > counted.requests + connections) {
      throw new Error(
        `${server.name}: ${counted.requests} appends were acknowledged and ${appended} are stored`,
      );
    }
    before = after;
    results[connections] = counted;
  }
  return results;
}

/** Kills a server that has many streams, and starts it again, until it answers for one. */
async function restart(server) {
  const name = "kept-";
  try {
    await each(server, "PUT", name, restartStreams, 201);
  } catch (error) {
    // A server with a file for each stream can run out of files.
    console.log(`${server.name} cannot have ${restartStreams} streams: ${error.message}`);
    return {};
  }
  const begun = performance.now();
  await server.restart();
  const target = streamPath(`${name}${restartStreams}`);
  expectStatus("HEAD", (await request(server.url, target, { method: "HEAD" })).status, 200);
  const ms = performance.now() - begun;
  return { ms, resident: residentBytes(server.pid) };
}

const groups = [
  { name: "appends", measure: appends, rounds },
  { name: "many streams", measure: manyStreams, rounds: Math.min(rounds, 3) },
  { name: "reads", measure: reads, rounds },
  { name: "fan-out", measure: fanOutTimes, rounds },
  { name: "memory", measure: memory, rounds: 1 },
  { name: "restart", measure: restart, rounds: 1 },
  { name: "syncs", measure: syncs, rounds: 1 },
];

// Each round measures all servers, and starts with another one.
async function measured() {
  const results = {};
  const begun = Date.now();
  for (const group of groups) {
    if (options.only && !options.only.includes(group.name)) continue;
    results[group.name] = Object.fromEntries(compared.map(({ name }) => [name, []]));
    for (const round of range(group.rounds)) {
      const times = [];
      for (const turn of range(compared.length)) {
        const turnBegun = Date.now();
        const server = compared[(round + turn) % compared.length];
        const running = await startPeer(server);
        try {
          results[group.name][server.name].push(await group.measure(running));
        } catch (error) {
          throw new Error(`${group.name}, ${server.name}: ${error.message}\n${running.output()}`, {
            cause: error,
          });
        } finally {
          await running.stop();
        }
        times.push(`${server.name} ${((Date.now() - turnBegun) / 1_000).toFixed(1)} s`);
      }
      console.log(
        `${((Date.now() - begun) / 1_000).toFixed(0).padStart(4)} s  ${group.name}, round ${round + 1} of ${group.rounds}: ${times.join(", ")}`,
      );
    }
  }
  return results;
}

const whole = (value) => value.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ",");
const kibibytes = (value) => `${(value / 1_024).toFixed(1)} KiB`;

function table(results) {
  const rows = [];
  const row = (group, what, field, print) => {
    if (!results[group]) return;
    const cells = compared.map(({ name }) => {
      const values = results[group][name].map(field);
      return values.includes(undefined) ? "not measured" : print(median(values));
    });
    rows.push(`| ${[what, ...cells].join(" | ")} |`);
  };
  for (const streams of [1, spread]) {
    for (const connections of appendConnections) {
      const over = `${connections} connection${connections > 1 ? "s" : ""}, ${streams} stream${streams > 1 ? "s" : ""}`;
      row(
        "appends",
        `appends/s, ${over}`,
        (round) => round[`${streams}/${connections}`].rate,
        whole,
      );
    }
  }
  for (const connections of appendConnections) {
    row(
      "many streams",
      `appends/s, ${connections} connection${connections > 1 ? "s" : ""}, ${whole(many)} streams`,
      (round) => round[connections]?.rate,
      whole,
    );
  }
  row(
    "many streams",
    `creations/s, ${creators} connections, up to ${whole(many)} streams`,
    (round) => round.created,
    whole,
  );
  row("many streams", "disk for a stream without content", (round) => round.disk, kibibytes);
  row(
    "appends",
    "p50 of an append, 1 connection",
    (round) => round["1/1"].p50,
    (value) => `${value.toFixed(2)} ms`,
  );
  for (const streams of [1, spread]) {
    const over = `64 connections, ${streams} stream${streams > 1 ? "s" : ""}`;
    row(
      "appends",
      `processor for an append, ${over}`,
      (round) => round[`${streams}/64`].processor,
      (value) => `${whole(value)} us`,
    );
    row(
      "syncs",
      `syncs for an append, ${over}`,
      (round) => round[streams].each,
      (value) => value.toFixed(3),
    );
    row(
      "syncs",
      `system calls for an append, ${over}`,
      (round) => round[streams].all,
      (value) => value.toFixed(1),
    );
  }
  for (const { name } of pages) {
    row(
      "reads",
      `reads/s of ${name}, ${readConnections} connections`,
      (round) => round[name].rate,
      whole,
    );
    row("reads", `the same in MB/s`, (round) => round[name].megabytes, whole);
  }
  for (const { readers } of fanOuts) {
    for (const share of ["p50", "p99"]) {
      row(
        "fan-out",
        `append to the last of ${whole(readers)} SSE readers, ${share}`,
        (round) => round[readers][share],
        (value) => `${value.toFixed(1)} ms`,
      );
    }
  }
  row(
    "memory",
    "resident at the start",
    (round) => round.empty,
    (value) => `${(value / 2 ** 20).toFixed(1)} MiB`,
  );
  row("memory", "more for each quiet stream", (round) => round.stream, kibibytes);
  row("memory", "more for each quiet SSE reader", (round) => round.reader, kibibytes);
  row(
    "restart",
    `start after a kill, ${whole(restartStreams)} streams`,
    (round) => round.ms,
    (value) => `${whole(value)} ms`,
  );
  row(
    "restart",
    "resident after it",
    (round) => round.resident,
    (value) => `${(value / 2 ** 20).toFixed(1)} MiB`,
  );
  const head = `| ${["", ...compared.map(({ name }) => name)].join(" | ")} |`;
  return [head, `|${" --- |".repeat(compared.length + 1)}`, ...rows].join("\n");
}

const begun = Date.now();
const results = await measured();
const machine = {
  processors: os.cpus().length,
  processor: os.cpus()[0].model.trim(),
  memory: os.totalmem(),
  kernel: os.release(),
};
await mkdir(path.dirname(report), { recursive: true });
await writeFile(
  report,
  `${JSON.stringify({ machine, rounds, seconds, options: Object.fromEntries(compared.map(({ name, options: set }) => [name, set])), results }, null, 2)}\n`,
);
console.log(
  `\nmedians of ${rounds} rounds of ${seconds} s, on ${machine.processors} processors that the load generator shares\n`,
);
console.log(table(results));
await writeFile(report.replace(/json$/, "md"), `${table(results)}\n`);
console.log(
  `\nall of it took ${((Date.now() - begun) / 1_000).toFixed(0)} s; each round is in ${path.relative(repositoryRoot, report)}, the table beside it`,
);
