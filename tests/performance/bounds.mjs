// What hostile and slow clients cost the server for one machine: memory and time, for one or more
// binaries.
//
//   node tests/performance/bounds.mjs BEFORE AFTER
//
// Each binary is started anew for each row, with its defaults. Everything goes over loopback and
// ends by itself.

import { readFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { sleep } from "../harness/http.mjs";
import { startOneMachine } from "../harness/one-machine.mjs";

const binaries = process.argv.slice(2);
if (binaries.length === 0) {
  console.error("usage: node tests/performance/bounds.mjs BINARY...");
  process.exit(2);
}

async function residentMegabytes({ pid }) {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(status)[1]) / 1024);
}

/**
 * Asks from an address of its own, on a connection of its own. Gives the status, or what came in
 * its place.
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
      response.resume().on("end", () => done(response.statusCode)),
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
  "4b 1,500 clients ask for a page of 1 MiB and never read; memory, and 20 reads of others": async (
    server,
  ) => {
    await put(server, "/v1/stream/a");
    await put(server, "/v1/stream/b");
    await append(server, "/v1/stream/a", Buffer.alloc(1 << 20, "x"));
    await append(server, "/v1/stream/b", Buffer.alloc(1 << 17, "x"));
    const sockets = await connections(
      server,
      1_500,
      "GET /v1/stream/a?offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    let most = 0;
    for (let index = 0; index < 10; index += 1) {
      most = Math.max(most, await residentMegabytes(server));
      await sleep(300);
    }
    const answers = [];
    for (let index = 0; index < 20; index += 1)
      answers.push(await ask(server, { target: "/v1/stream/b?offset=-1" }));
    sockets.forEach((socket) => socket.destroy());
    return `${most} MB; ${summary(answers)}`;
  },
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
