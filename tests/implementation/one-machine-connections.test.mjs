// Connections of the server for one machine: slow, hostile, half-closed and refused clients.

import { execFile } from "node:child_process";
import http from "node:http";
import net from "node:net";
import { promisify } from "node:util";
import { describe, expect, onTestFinished, test } from "vitest";
import { eventually, exchange, request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const range = (count) => Array.from({ length: count }, (_, index) => index);
const mebibyte = 1 << 20;

async function serve(env = {}, options = {}) {
  const server = await startServer({ env, ...options });
  onTestFinished(() => server.stop());
  return server;
}

/** A connection whose answers are collected. */
function connect(server, { localAddress = "127.0.0.1" } = {}) {
  const socket = net.connect({
    port: server.port,
    host: "127.0.0.1",
    localAddress,
    allowHalfOpen: true,
  });
  const parts = [];
  const connection = {
    socket,
    text: () => Buffer.concat(parts).toString("latin1"),
    isClosed: false,
  };
  socket.on("data", (part) => parts.push(part));
  socket.on("error", () => {});
  socket.on("end", () => (connection.hasEnded = true));
  socket.on("close", () => (connection.isClosed = true));
  onTestFinished(() => socket.destroy());
  return connection;
}

async function answered(connection, pattern, timeoutMs = 30_000) {
  await eventually(`an answer like ${pattern}`, () => pattern.test(connection.text()), {
    timeoutMs,
    everyMs: 10,
  });
}

const post = (stream, length, more = "") =>
  `POST ${stream.path} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: ${length}\r\n${more}\r\n`;

describe.runIf(shell === "server")("bodies", () => {
  test("clients that announce large bodies and send little do not block others", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    const slow = range(17).map(() => connect(server));
    for (const { socket } of slow) socket.write(`${post(stream, 16 * mebibyte)}x`);
    await sleep(300);
    for (let index = 0; index < 10; index += 1)
      expect((await stream.append("abc")).status).toBe(204);
  });

  test("without room, the newest large body is refused, and small ones pass", async () => {
    const server = await serve({ BODIES_BYTES_MAX: 3 * mebibyte });
    const stream = await Stream.create(server.url);
    const large = [];
    for (const index of range(3)) {
      const connection = connect(server);
      connection.socket.write(post(stream, mebibyte));
      connection.socket.write(Buffer.alloc(mebibyte - 1, "x"));
      large[index] = connection;
      await sleep(300);
    }
    expect((await stream.append("abc")).status).toBe(204);
    expect((await stream.append("x".repeat(60_000))).status).toBe(204);
    await answered(large[2], /^HTTP\/1\.1 503 .*\r\nretry-after: \d+/is);
    for (const { socket } of large.slice(0, 2)) socket.write("x");
    for (const connection of large.slice(0, 2)) await answered(connection, /^HTTP\/1\.1 204 /);
    expect((await stream.head()).offset).toMatch(new RegExp(`_0*${3 + 60_000 + 2 * mebibyte}$`));
  });

  test("the address that holds most loses a body first", async () => {
    const server = await serve({ BODIES_BYTES_MAX: 3 * mebibyte });
    const stream = await Stream.create(server.url);
    const hold = async (localAddress, bytes) => {
      const connection = connect(server, { localAddress });
      connection.socket.write(post(stream, bytes + 1));
      connection.socket.write(Buffer.alloc(bytes, "x"));
      await sleep(300);
      return connection;
    };
    const heavy = [await hold("127.0.0.2", mebibyte), await hold("127.0.0.2", mebibyte - 10_000)];
    const light = await hold("127.0.0.3", mebibyte);
    expect((await stream.append("x".repeat(100_000))).status).toBe(204);
    await answered(heavy[1], /^HTTP\/1\.1 503 /);
    light.socket.write("x");
    await answered(light, /^HTTP\/1\.1 204 /);
  });

  test("a body that ends too early is refused, and nothing of it is stored", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    const connection = connect(server);
    connection.socket.end(`${post(stream, 10)}abc`);
    await answered(connection, /^HTTP\/1\.1 400 .*cache-control: no-store.*body_broken_off/is);
    expect((await stream.get()).text).toBe("");
  });
});

describe.runIf(shell === "server")("answers", () => {
  test("clients that never read stay within the room, and others can read", async () => {
    const server = await serve({ PAGES_BYTES_MAX: 8 * mebibyte });
    const stream = await Stream.create(server.url, { body: Buffer.alloc(mebibyte, "x") });
    const small = await Stream.create(server.url, { body: Buffer.alloc(100_000, "y") });
    const page = (await stream.get()).body;
    expect(page.length).toBe(mebibyte);
    for (let index = 0; index < 100; index += 1) {
      const { socket } = connect(server, { localAddress: "127.0.0.2" });
      socket.pause();
      socket.write(`GET ${stream.path}?offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n`);
    }
    await sleep(1_500);
    for (let index = 0; index < 10; index += 1) {
      const answer = await small.get();
      expect(answer.status).toBe(200);
      expect(answer.body.length).toBe(100_000);
    }
  });
});

/** Reads a whole stream on a new connection. Returns the answer and how it ended. */
function readAll(server, target, localAddress) {
  return new Promise((resolve) => {
    const options = {
      host: "127.0.0.1",
      port: server.port,
      path: target,
      localAddress,
      agent: false,
    };
    const outgoing = http.get(options, (incoming) => {
      const { statusCode: status, headers } = incoming;
      const parts = [];
      incoming.on("data", (part) => parts.push(part));
      incoming.on("error", () => resolve({ status, headers, isBroken: true }));
      incoming.on("end", () => resolve({ status, headers, body: Buffer.concat(parts) }));
    });
    outgoing.on("error", (error) => resolve({ status: error.code }));
  });
}

/** Expects the whole content, or a refusal before the head. Returns the status. */
function expectWholeOrRefused(answer, content) {
  expect(answer.isBroken).toBeUndefined();
  expect([200, 503]).toContain(answer.status);
  if (answer.status === 200) {
    expect(answer.body.equals(content)).toBe(true);
  } else {
    expect(answer.headers["retry-after"]).toMatch(/^\d+$/);
    expect(answer.headers["cache-control"]).toBe("no-store");
    expect(answer.body.toString()).toMatch(/^[^\n]+$/);
  }
  return answer.status;
}

/** Connections that send a request and never read. */
async function neverRead(server, count, target, localAddress) {
  for (const _ of range(count)) {
    const { socket } = connect(server, { localAddress });
    socket.pause();
    socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`);
  }
  await sleep(500);
}

describe.runIf(shell === "server")("long reads when there is little room for answers", () => {
  const kinds = [
    ["binary", {}, "application/octet-stream", () => Buffer.alloc(mebibyte, "x")],
    ["JSON", {}, "application/json", () => JSON.stringify(["x".repeat(mebibyte - 10)])],
    [
      "cold",
      { SEGMENT_MAX_BYTES: mebibyte },
      "application/octet-stream",
      () => Buffer.alloc(mebibyte, "x"),
    ],
  ];
  test.each(kinds)(
    "%s reads arrive whole or are refused with 503",
    async (kind, env, type, part) => {
      const options = kind === "cold" ? { cold: "directory" } : {};
      const server = await serve({ PAGES_BYTES_MAX: 4 * mebibyte, ...env }, options);
      const stream = await Stream.create(server.url, { contentType: type });
      // The sockets' buffers take several megabytes, so that a stalled client needs a long stream.
      for (const _ of range(12)) expect((await stream.append(part())).status).toBe(204);
      if (kind === "cold") await sleep(2_000);
      const content = (await readAll(server, stream.path)).body;
      expect(content.length).toBeGreaterThan(12 * (mebibyte - 10));
      await neverRead(server, 30, stream.path, "127.0.0.2");
      const statuses = [];
      // A slow machine takes longer to cut off the clients that never read.
      for (let round = 0; round < 4 || !statuses.includes(200); round += 1) {
        expect(round, "a read gets room").toBeLessThan(40);
        const reads = range(8).map((index) => readAll(server, stream.path, `127.0.0.${3 + index}`));
        for (const answer of await Promise.all(reads)) {
          statuses.push(expectWholeOrRefused(answer, content));
        }
        await sleep(300);
      }
      expect(statuses).toContain(503);
      const metrics = (await request(server.url, "/metrics")).text;
      const refused = /^durable_streams_refused_total\{bound="Pages"\} (\d+)$/m.exec(metrics);
      const counted = /^durable_streams_requests_total\{.*status="503".*\} (\d+)$/m.exec(metrics);
      expect(Number(refused[1])).toBeGreaterThan(0);
      expect(counted[1]).toBe(refused[1]);
    },
  );

  test("an event stream that has begun gets everything, even if others fill the room", async () => {
    const server = await serve({ PAGES_BYTES_MAX: 2 * mebibyte });
    const stream = await Stream.create(server.url);
    const long = await Stream.create(server.url, { body: Buffer.alloc(12 * mebibyte, "y") });
    const reader = await stream.events("-1");
    await reader.upToDate();
    await neverRead(server, 10, long.path, "127.0.0.2");
    const parts = range(10).map((index) => `${index}`.repeat(100_000));
    let tail;
    for (const part of parts) {
      const { status, offset } = await stream.append(part);
      expect(status).toBe(204);
      tail = offset;
    }
    await reader.control(({ streamNextOffset }) => streamNextOffset === tail);
    expect(reader.text === parts.join("")).toBe(true);
    reader.close();
  });

  test("/metrics, /health and HEAD answer", async () => {
    const server = await serve({ PAGES_BYTES_MAX: mebibyte });
    const stream = await Stream.create(server.url, { body: Buffer.alloc(12 * mebibyte, "x") });
    await neverRead(server, 10, stream.path, "127.0.0.2");
    for (const _ of range(10)) {
      expect((await request(server.url, "/metrics")).status).toBe(200);
      expect((await request(server.url, "/health")).status).toBe(200);
      expect((await stream.head()).status).toBe(200);
      await neverRead(server, 1, stream.path, "127.0.0.2");
    }
  });
});

describe.runIf(shell === "server")("connections", () => {
  test("slow heads are closed in favour of new connections, from any address", async () => {
    const server = await serve({ CONNECTIONS_MAX: 20 });
    const stream = await Stream.create(server.url);
    const slow = range(60).map(() => connect(server));
    for (const { socket } of slow) socket.write("GET / HTTP/1.1\r\nHost: x\r\n");
    await sleep(300);
    for (let index = 0; index < 10; index += 1) {
      expect((await request(server.url, stream.path, { agent: false })).status).toBe(200);
      expect((await request(server.url, "/health", { agent: false })).status).toBe(200);
    }
    await eventually(
      "40 are closed",
      () => slow.filter(({ isClosed, hasEnded }) => isClosed || hasEnded).length >= 40,
      { timeoutMs: 10_000 },
    );
  });

  test("one address has its share, and /health and /metrics answer beyond it", async () => {
    const server = await serve({ CONNECTIONS_MAX: 4, READERS_MAX: 4 });
    const stream = await Stream.create(server.url);
    for (const status of [200, 200, 200, 503]) {
      const reader = connect(server, { localAddress: "127.0.0.2" });
      reader.socket.write(`GET ${stream.path}?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n`);
      await answered(reader, new RegExp(`^HTTP/1\\.1 ${status} `));
    }
    // Other addresses still have places.
    expect((await request(server.url, stream.path)).status).toBe(200);
    // An address without a place still gets answers from the server's own paths.
    const own = connect(server, { localAddress: "127.0.0.2" });
    own.socket.write("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    await answered(own, /^HTTP\/1\.1 200 .*"ok"/s);
    const metrics = connect(server, { localAddress: "127.0.0.2" });
    metrics.socket.write("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    await answered(metrics, /^HTTP\/1\.1 200 .*durable_streams_connections/s);
  });

  test("an idle connection is kept for the time that is set", async () => {
    const server = await serve({ IDLE_TIMEOUT_MS: 31_000 });
    const connection = connect(server);
    connection.socket.write("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    await answered(connection, /"ok"/);
    await sleep(1_000);
    expect(connection.hasEnded).toBeUndefined();
    expect(connection.text()).not.toMatch(/connection: close/i);
  });
});

describe.runIf(shell === "server")("half-closed clients", () => {
  test.each([
    ["POST", (stream) => `${post(stream, 3)}abc`, /^HTTP\/1\.1 204 /],
    [
      "GET",
      (stream) => `GET ${stream.path} HTTP/1.1\r\nHost: x\r\n\r\n`,
      /^HTTP\/1\.1 200 .*first/s,
    ],
    ["HEAD", (stream) => `HEAD ${stream.path} HTTP/1.1\r\nHost: x\r\n\r\n`, /^HTTP\/1\.1 200 /],
    ["DELETE", (stream) => `DELETE ${stream.path} HTTP/1.1\r\nHost: x\r\n\r\n`, /^HTTP\/1\.1 204 /],
  ])("%s is answered", async (_, bytes, pattern) => {
    const server = await serve();
    const stream = await Stream.create(server.url, { body: "first" });
    const connection = connect(server);
    connection.socket.end(bytes(stream));
    await answered(connection, pattern);
    await eventually("the end", () => connection.hasEnded);
  });

  test("a long-poll and an event stream are answered", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    const poll = connect(server);
    poll.socket.end(
      `GET ${stream.path}?offset=${stream.start}&live=long-poll HTTP/1.1\r\nHost: x\r\n\r\n`,
    );
    const events = connect(server);
    events.socket.end(`GET ${stream.path}?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n`);
    await answered(events, /upToDate/);
    await sleep(300);
    expect((await stream.append("later")).status).toBe(204);
    await answered(poll, /^HTTP\/1\.1 200 .*later/s);
    await answered(events, /later/);
  });

  test.each(["destroy", "resetAndDestroy"])(
    "a reader that is gone (%s) frees its place at the next heartbeat",
    async (how) => {
      const server = await serve({ READERS_MAX: 1, SSE_HEARTBEAT_MS: 500 });
      const stream = await Stream.create(server.url);
      const reader = connect(server);
      reader.socket.write(`GET ${stream.path}?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n`);
      await answered(reader, /upToDate/);
      reader.socket[how]();
      await eventually(
        "a place",
        async () => {
          const next = await stream.events("-1");
          next.close?.();
          return next.status === 200;
        },
        { timeoutMs: 10_000 },
      );
    },
  );

  test("a poll whose connection was reset frees its place at once", async () => {
    const server = await serve({ READERS_MAX: 1 });
    const stream = await Stream.create(server.url);
    const poll = connect(server);
    poll.socket.write(
      `GET ${stream.path}?offset=${stream.start}&live=long-poll HTTP/1.1\r\nHost: x\r\n\r\n`,
    );
    await sleep(200);
    poll.socket.resetAndDestroy();
    await eventually(
      "a place",
      async () => {
        const next = await stream.events("-1");
        next.close?.();
        return next.status === 200;
      },
      { timeoutMs: 10_000 },
    );
  });
});

describe.runIf(shell === "server")("refused bodies", () => {
  const run = promisify(execFile);

  async function expectReadable(server, send) {
    for (const mebibytes of [17, 64])
      for (let index = 0; index < 5; index += 1)
        expect(await send(mebibytes), `${mebibytes} MiB`).toBe(413);
    expect((await request(server.url, "/health")).status).toBe(200);
  }

  test("fetch reads the refusal of a body that is too large", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    await expectReadable(server, async (mebibytes) => {
      const answer = await fetch(`${server.url}${stream.path}`, {
        method: "POST",
        headers: { "Content-Type": "application/octet-stream" },
        body: Buffer.alloc(mebibytes * mebibyte),
      });
      expect((await answer.json()).error.code).toBe("body_too_large");
      return answer.status;
    });
  });

  test("Python's http.client reads the refusal of a body that is too large", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    const program = `
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", ${server.port})
connection.request("POST", "${stream.path}", body=b"x" * (int(sys.argv[1]) << 20), headers={"Content-Type": "application/octet-stream"})
answer = connection.getresponse()
answer.read()
print(answer.status)`;
    await expectReadable(server, async (mebibytes) =>
      Number((await run("python3", ["-c", program, String(mebibytes)])).stdout),
    );
  });

  test.each([
    ["with Expect", ["-H", "Expect: 100-continue"]],
    ["without Expect", ["-H", "Expect:"]],
  ])("curl %s reads the refusal of a body that is too large", async (_, more) => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    await expectReadable(server, async (mebibytes) => {
      const running = run("curl", [
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        ...more,
        "-H",
        "Content-Type: application/octet-stream",
        "--data-binary",
        "@-",
        `${server.url}${stream.path}`,
      ]);
      running.child.stdin.on("error", () => {});
      running.child.stdin.end(Buffer.alloc(mebibytes * mebibyte));
      return Number((await running).stdout);
    });
  });

  test.each(["GET", "HEAD", "DELETE", "OPTIONS", "PATCH"])(
    "%s whose body never arrives is answered at once",
    async (method) => {
      const server = await serve();
      const stream = await Stream.create(server.url);
      for (const length of [5, 100_000]) {
        const connection = connect(server);
        connection.socket.write(
          `${method} ${stream.path} HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n\r\n`,
        );
        await answered(connection, /^HTTP\/1\.1 \d\d\d /, 10_000);
      }
    },
  );

  test("a request without a token is refused before its body arrives", async () => {
    const server = await serve({ AUTH_TOKEN: "secret" });
    const stream = new Stream(server.url);
    for (const more of ["", "Expect: 100-continue\r\n"]) {
      const connection = connect(server);
      connection.socket.write(post(stream, 1_000_000, more));
      await answered(connection, /^HTTP\/1\.1 401 .*connection: close/is, 10_000);
      // The server waits for five seconds of silence only after it has ended its own side.
      await eventually("the end", () => connection.hasEnded, { timeoutMs: 4_000 });
    }
    const chunked = connect(server);
    chunked.socket.write(
      `POST ${stream.path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n`,
    );
    await answered(chunked, /^HTTP\/1\.1 401 /, 10_000);
  });

  test("a connection can be used again after a short refused body", async () => {
    const server = await serve();
    const stream = new Stream(server.url);
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    const sockets = new Set();
    for (let index = 0; index < 5; index += 1) {
      const answer = await request(server.url, `${stream.path}?offset=x`, {
        method: "PATCH",
        body: "x".repeat(10_000),
        agent,
      });
      expect(answer.status).toBe(405);
      for (const each of Object.values(agent.freeSockets).flat()) sockets.add(each);
    }
    expect(sockets.size).toBe(1);
  });
});

describe.runIf(shell === "server")("heads", () => {
  test.each([
    ["after the request line", "GET /health HTTP/1.1\nHost: x\r\n\r\n"],
    ["after a header", "GET /health HTTP/1.1\r\nHost: x\n\r\n"],
    ["at the end", "GET /health HTTP/1.1\r\nHost: x\r\n\n"],
    ["everywhere", "GET /health HTTP/1.1\nHost: x\n\n"],
    ["before a head", "\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"],
  ])("a line feed alone %s is refused", async (_, bytes) => {
    const server = await serve();
    expect((await exchange(server.url, bytes)).toString("latin1")).toMatch(/^HTTP\/1\.1 400 /);
  });

  test("a line feed alone is also refused in a second request", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    for (const first of [
      "GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
      `${post(stream, 3)}\n\n\n`,
      `POST ${stream.path} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\n\n\n\r\n0\r\n\r\n`,
    ]) {
      const text = (
        await exchange(server.url, `${first}GET /health HTTP/1.1\nHost: x\n\n`)
      ).toString("latin1");
      expect(text).toMatch(/^HTTP\/1\.1 20[04] .*HTTP\/1\.1 400 /s);
    }
    expect((await stream.get()).text).toBe("\n".repeat(6));
  });

  test.each(["/health#", "/health?x=1#y", "http://x/health#y"])(
    "a target with a fragment, %s, is refused",
    async (target) => {
      const server = await serve();
      const text = (
        await exchange(server.url, `GET ${target} HTTP/1.1\r\nHost: x\r\n\r\n`)
      ).toString("latin1");
      expect(text).toMatch(/^HTTP\/1\.1 400 /);
    },
  );

  test.each([
    ["an invalid request line", "hello\r\n\r\n", 400],
    ["another version", "GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 400],
    ["a bad header name", "GET /health HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n", 400],
    ["a bad length", "POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400],
    ["a line feed alone", "GET /health HTTP/1.1\nHost: x\n\n", 400],
    ["too many headers", `GET /health HTTP/1.1\r\nHost: x\r\n${"A: b\r\n".repeat(101)}\r\n`, 431],
    [
      "a large head",
      `GET /health HTTP/1.1\r\nHost: x\r\nX-Large: ${"x".repeat(70_000)}\r\n\r\n`,
      431,
    ],
    ["a long target", `GET /${"x".repeat(70_000)} HTTP/1.1\r\nHost: x\r\n\r\n`, 431],
  ])(
    "the answer to a head with %s is never stored, in a first or second request",
    async (_, head, status) => {
      const server = await serve();
      const refused = new RegExp(
        `^HTTP/1\\.1 ${status} [^\r]*\r\ncache-control: no-store\r\n[^]*\r\n\r\n$`,
      );
      expect((await exchange(server.url, head)).toString("latin1")).toMatch(refused);
      const text = (
        await exchange(server.url, `GET /health HTTP/1.1\r\nHost: x\r\n\r\n${head}`)
      ).toString("latin1");
      expect(text).toMatch(/^HTTP\/1\.1 200 /);
      expect(text.slice(text.lastIndexOf("HTTP/1.1 "))).toMatch(refused);
    },
  );

  test("content that looks like such an answer is returned unchanged", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    const content = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    for (let index = 0; index < 3; index += 1) await stream.append(content);
    const text = (
      await exchange(server.url, `GET ${stream.path} HTTP/1.1\r\nHost: x\r\n\r\nhello\r\n\r\n`)
    ).toString("latin1");
    expect(text).toContain(content.repeat(3));
    expect(text.match(/cache-control/g)).toHaveLength(2);
  });

  test("pipelined requests are answered in order", async () => {
    const server = await serve();
    const stream = await Stream.create(server.url);
    const all = `${range(20)
      .map((index) => `${post(stream, 3)}${String(index).padStart(3, "0")}`)
      .join("")}GET ${stream.path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`;
    const text = (await exchange(server.url, all)).toString("latin1");
    expect(text.match(/HTTP\/1\.1 204 /g)).toHaveLength(20);
    expect(text).toMatch(
      new RegExp(
        `${range(20)
          .map((index) => String(index).padStart(3, "0"))
          .join("")}$`,
      ),
    );
  });

  test("a head may have 64 KiB and no more", async () => {
    const server = await serve();
    const head = (length) => {
      const [before, after] = [
        "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Large: ",
        "\r\n\r\n",
      ];
      return before + "x".repeat(length - before.length - after.length) + after;
    };
    expect((await exchange(server.url, head(65_536))).toString("latin1")).toMatch(
      /^HTTP\/1\.1 200 /,
    );
    expect((await exchange(server.url, head(65_537))).toString("latin1")).toMatch(
      /^HTTP\/1\.1 431 /,
    );
  });
});

describe.runIf(shell === "server")("its own paths", () => {
  test("/metrics has the format that the request asks for", async () => {
    const server = await serve();
    await Stream.create(server.url);
    const plain = await request(server.url, "/metrics");
    expect(plain.headers["content-type"]).toBe("text/plain; version=0.0.4; charset=utf-8");
    expect(plain.text).toMatch(/^# TYPE durable_streams_requests_total counter$/m);
    expect(plain.text).not.toContain("# EOF");
    const open = await request(server.url, "/metrics", {
      headers: {
        Accept: "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
      },
    });
    expect(open.headers["content-type"]).toBe(
      "application/openmetrics-text; version=1.0.0; charset=utf-8",
    );
    expect(open.text).toMatch(/^# TYPE durable_streams_requests counter$/m);
    expect(open.text).toMatch(/# EOF\n$/);
    const samples = (text) =>
      text
        .split("\n")
        .filter(
          (line) =>
            line.startsWith("durable_streams_cold") ||
            line.startsWith("durable_streams_requests_total"),
        );
    expect(samples(plain.text)).toEqual(samples(open.text));
  });

  test("/health reports failing commits, and their recovery", async () => {
    // The system limits the size of files, which has the effect of a full disk.
    const server = await serve({}, { fileBytesMax: 2 * mebibyte });
    const stream = await Stream.create(server.url);
    expect((await request(server.url, "/health")).status).toBe(200);
    const answer = await stream.append("x".repeat(4 * mebibyte));
    expect(answer.status).toBe(503);
    const health = await request(server.url, "/health");
    expect(health.status).toBe(503);
    expect(health.json()).toEqual({ status: "failing", reason: "commits fail" });
    expect((await request(server.url, "/metrics")).text).toMatch(/^durable_streams_healthy 0$/m);
    expect((await stream.append("x")).status).toBe(204);
    expect((await request(server.url, "/health")).json()).toEqual({ status: "ok" });
    expect((await request(server.url, "/metrics")).text).toMatch(/^durable_streams_healthy 1$/m);
  });
});
