// Measures what hostile and slow clients cost the server for one machine, in memory and time.
//
//   node tests/performance/bounds.mjs [--row 4b] BEFORE AFTER
//
// BEFORE and AFTER are binaries of the server. Each binary is started for each row, with its
// defaults. Everything uses loopback only, and ends by itself.

import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { parseArgs } from "node:util";
import { sleep } from "../harness/http.mjs";
import { startOneMachine } from "../harness/one-machine.mjs";

const { values: options, positionals: binaries } = parseArgs({
  allowPositionals: true,
  options: { row: { type: "string", default: "" } },
});
if (binaries.length === 0) {
  console.error("usage: node tests/performance/bounds.mjs [--row PREFIX] BINARY...");
  process.exit(2);
}

async function megabytes({ pid }, field) {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)[1]) / 1024);
}

const residentMegabytes = (server) => megabytes(server, "VmRSS");
const peakMegabytes = (server) => megabytes(server, "VmHWM");

/**
 * Sends a request from another address on a new connection. Returns the status, or the error if the
 * answer is missing or incomplete.
 */
function ask(
  server,
  { method = "GET", target, body, headers = {}, timeoutMs = 5_000, localAddress = "127.0.0.2" },
) {
  return new Promise((resolve) => {
    const begun = performance.now();
    const done = (status) => resolve({ status, ms: performance.now() - begun });
    const request = http.request({
      host: "127.0.0.1",
      port: server.port,
      path: target,
      method,
      headers,
      localAddress,
      agent: false,
      timeout: timeoutMs,
    });
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.on("error", (error) => done(error.code ?? error.message));
    request.on("response", (response) =>
      response
        .resume()
        .on("error", () => done(`broken ${response.statusCode}`))
        .on("end", () => done(response.statusCode)),
    );
    request.end(body);
  });
}

const put = (server, target) =>
  ask(server, { method: "PUT", target, headers: { "Content-Type": "text/plain" } });
const append = (server, target, body, options) =>
  ask(server, {
    method: "POST",
    target,
    body,
    headers: { "Content-Type": "text/plain", "Content-Length": body.length },
    ...options,
  });

/** Connections that send `bytes` and never read. */
async function connections(server, count, bytes) {
  const sockets = [];
  for (let index = 0; index < count; index += 1) {
    const socket = net.connect({ port: server.port, host: "127.0.0.1" });
    socket.on("error", () => {});
    socket.pause();
    sockets.push(socket);
    socket.write(bytes);
    if (index % 200 === 199) await sleep(20);
  }
  await sleep(1_000);
  return sockets;
}

const summary = (answers) => {
  const good = answers.filter(({ status }) => status >= 200 && status < 300);
  const others = [
    ...new Set(answers.filter((answer) => !good.includes(answer)).map(({ status }) => status)),
  ];
  const slowest = Math.round(Math.max(...answers.map(({ ms }) => ms)));
  return `${good.length} of ${answers.length} answered 2xx${others.length > 0 ? `, others ${others.join(" ")}` : ""}, the slowest after ${slowest} ms`;
};

/** Reads a stream of `bytes` by 1,500 clients that do not read the answer, and by 20 that do. */
async function neverRead(server, bytes) {
  await put(server, "/v1/stream/a");
  await put(server, "/v1/stream/b");
  for (let stored = 0; stored < bytes; stored += 1 << 20) {
    await append(server, "/v1/stream/a", Buffer.alloc(1 << 20, "x"));
    await append(server, "/v1/stream/b", Buffer.alloc(1 << 20, "x"));
  }
  const head = "GET /v1/stream/a?offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n";
  const sockets = await connections(server, 1_500, head);
  await sleep(3_000);
  const held = await residentMegabytes(server);
  const target = "/v1/stream/b?offset=-1";
  const answers = [];
  for (let index = 0; index < 20; index += 1) answers.push(await ask(server, { target }));
  sockets.forEach((socket) => socket.destroy());
  return `${held} MB, at most ${await peakMegabytes(server)} MB; ${summary(answers)}`;
}

const rows = {
  "4a 17 clients announce 16 MiB and send a byte every 6 s; 20 appends of others": async (
    server,
  ) => {
    await put(server, "/v1/stream/a");
    const head = `POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: ${16 << 20}\r\n\r\nx`;
    const sockets = await connections(server, 17, head);
    const timer = setInterval(
      () => sockets.forEach((socket) => socket.writable && socket.write("x")),
      6_000,
    );
    const answers = [];
    for (let index = 0; index < 20; index += 1)
      answers.push(await append(server, "/v1/stream/a", "abc"));
    clearInterval(timer);
    sockets.forEach((socket) => socket.destroy());
    return summary(answers);
  },
  "4b 1,500 clients ask for a page of 1 MiB and never read; memory, and 20 reads of others": (
    server,
  ) => neverRead(server, 1 << 20),
  "4b 1,500 clients ask for 16 MiB in pages and never read; memory, and 20 reads of others": (
    server,
  ) => neverRead(server, 16 << 20),
  "4c 10,000 slow request heads; 20 reads and 20 times /health from the same address": async (
    server,
  ) => {
    await put(server, "/v1/stream/a");
    const sockets = await connections(server, 10_300, "GET /v1/stream/a HTTP/1.1\r\nHost: x\r\n");
    const answers = [[], []];
    for (let index = 0; index < 20; index += 1) {
      answers[0].push(
        await ask(server, {
          target: "/v1/stream/a?offset=-1",
          timeoutMs: 1_000,
          localAddress: "127.0.0.1",
        }),
      );
      answers[1].push(
        await ask(server, { target: "/health", timeoutMs: 1_000, localAddress: "127.0.0.1" }),
      );
    }
    sockets.forEach((socket) => socket.destroy());
    return `reads: ${summary(answers[0])}; /health: ${summary(answers[1])}`;
  },
  "4e three bursts of 48 appends of 4 MiB; memory at most, and 15 s later": async (server) => {
    const body = Buffer.alloc(4 << 20, "x");
    const streams = Array.from({ length: 48 }, (_, index) => `/v1/stream/${index}`);
    for (const stream of streams) await put(server, stream);
    let most = 0;
    const timer = setInterval(
      async () => (most = Math.max(most, await residentMegabytes(server))),
      50,
    );
    for (let round = 0; round < 3; round += 1) {
      await Promise.all(
        streams.map((stream, index) =>
          append(server, stream, body, {
            timeoutMs: 60_000,
            localAddress: `127.0.0.${2 + (index % 8)}`,
          }),
        ),
      );
    }
    clearInterval(timer);
    await sleep(15_000);
    return `${most} MB, ${await residentMegabytes(server)} MB`;
  },
};

for (const [row, measure] of Object.entries(rows)) {
  if (!row.startsWith(options.row)) continue;
  console.log(row);
  for (const binary of binaries) {
    const server = await startOneMachine({ binary: path.resolve(binary) });
    try {
      console.log(`  ${binary}: ${await measure(server)}`);
    } finally {
      await server.kill();
    }
  }
}
process.exit(0);
