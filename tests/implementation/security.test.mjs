// What a client claims about the server's name, its own origin and its body's coding must not gain
// it anything.

import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { eventually, exchange, request } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { freshName, Stream } from "../harness/stream.mjs";

async function serve(env = {}, options = {}) {
  const server = await startServer({ env, ...options });
  onTestFinished(() => server.stop());
  return server.url;
}

/** Sends a request exactly as written. Returns the answer. */
async function raw(base, lines, body = "") {
  const bytes = await exchange(
    base,
    `${[...lines, "Connection: close"].join("\r\n")}\r\n\r\n${body}`,
  );
  const text = bytes.toString("latin1");
  const [head, ...rest] = text.split("\r\n\r\n");
  return { status: Number(head.split(" ")[1]), head, body: rest.join("\r\n\r\n") };
}

describe("Host", () => {
  const bad = (victim) => [
    ["none", []],
    ["an empty one", ["Host:"]],
    ["two", ["Host: h", "Host: h"]],
    ["two that differ", ["Host: h", "host: other"]],
    ["two in one", ["Host: h, h"]],
    ["a path", ["Host: h/x"]],
    ["the path of another stream", [`Host: x${victim}`]],
    ["the path of another stream and the beginning of a query", [`Host: x${victim}?`]],
    ["the beginning of a query", ["Host: x?"]],
    ["the beginning of a fragment", ["Host: x#"]],
    ["a backslash", ["Host: x\\y"]],
    ["white space inside", ["Host: a b"]],
    ["a user", ["Host: user@h"]],
    ["a port that is no number", ["Host: h:port"]],
    ["a port that is too large", ["Host: h:65536"]],
    ["an address without its end", ["Host: [::1"]],
    ["bytes that are no characters of a host", ["Host: \u00e9"]],
  ];

  test("an invalid one is refused, and selects no stream", async () => {
    const base = await serve();
    const one = await Stream.create(base, { body: "one" });
    const victim = await Stream.create(base, { body: "victim" });
    for (const [what, hosts] of bad(victim.path)) {
      for (const line of [
        `GET ${one.path} HTTP/1.1`,
        `GET ${one.path}?offset=now HTTP/1.1`,
        `DELETE ${one.path} HTTP/1.1`,
        "GET / HTTP/1.1",
        `OPTIONS ${one.path} HTTP/1.1`,
      ]) {
        const answer = await raw(base, [line, ...hosts]);
        expect(answer.status, `${what}: ${line}`).toBe(400);
        expect(answer.body).not.toContain("victim");
      }
      const post = await raw(
        base,
        [`POST ${one.path} HTTP/1.1`, ...hosts, "Content-Type: text/plain", "Content-Length: 1"],
        "x",
      );
      expect(post.status, what).toBe(400);
    }
    expect((await one.get()).text).toBe("one");
    expect((await victim.get()).text).toBe("victim");
  });

  test("any valid one is accepted, and only the target selects the stream", async () => {
    const base = await serve();
    const stream = await Stream.create(base, { body: "abc" });
    for (const host of [
      "h",
      "streams.example:8080",
      "a_b.c-d",
      "127.0.0.1:1",
      "[::1]:80",
      "[2001:db8::1]",
      "h:",
    ]) {
      const answer = await raw(base, [`GET ${stream.path} HTTP/1.1`, `Host: ${host}`]);
      expect(answer.status, host).toBe(200);
      expect(answer.body, host).toContain("abc");
    }
  });

  test("a target in absolute form wins over Host", async () => {
    const base = await serve();
    const path = `/v1/stream/${freshName()}`;
    const put = await raw(base, [
      `PUT http://other.example:81${path}?x=1 HTTP/1.1`,
      "Host: h",
      "Content-Type: text/plain",
      "Content-Length: 0",
    ]);
    expect(put.status).toBe(201);
    // workerd keeps only the path of such a target, and puts Host in front of it.
    const origin = shell === "worker" ? "http://h" : "http://other.example:81";
    expect(put.head).toMatch(new RegExp(`^location: ${origin}${path}\r?$`, "im"));
    expect((await request(base, path)).status).toBe(200);
    expect((await raw(base, [`GET http://other.example${path} HTTP/1.1`, "Host: x?"])).status).toBe(
      400,
    );
    if (shell === "worker") return;
    for (const target of [
      `http://u@other.example${path}`,
      `ftp://other.example${path}`,
      "other.example:80",
      "*",
    ]) {
      expect((await raw(base, [`GET ${target} HTTP/1.1`, "Host: h"])).status, target).toBe(400);
    }
  });

  test.skipIf(shell === "worker")("HTTP/1.0 does not need one", async () => {
    const base = await serve();
    const stream = await Stream.create(base, { body: "abc" });
    expect((await raw(base, [`GET ${stream.path} HTTP/1.0`])).status).toBe(200);
    expect((await raw(base, [`GET ${stream.path} HTTP/1.0`, "Host: x?"])).status).toBe(400);
  });

  test.skipIf(shell === "worker")("/health and /metrics also need a valid one", async () => {
    const base = await serve();
    for (const target of ["/health", "/metrics"]) {
      expect((await raw(base, [`GET ${target} HTTP/1.1`, "Host: h"])).status).toBe(200);
      expect((await raw(base, [`GET ${target} HTTP/1.1`, "Host: x?"])).status).toBe(400);
    }
  });

  test("PUBLIC_URL is the base of Location for any request", async () => {
    const base = await serve({ PUBLIC_URL: "https://streams.example/tenant/" });
    const path = `/v1/stream/${freshName()}/%7Echild`;
    const answer = await request(base, `${path}?x=1`, {
      method: "PUT",
      headers: { Host: "inside:1" },
    });
    expect(answer.status).toBe(201);
    expect(answer.headers.location).toBe(`https://streams.example/tenant${path}`);
  });
});

describe("codings", () => {
  test("a body in a content coding is refused, and nothing is stored", async () => {
    const base = await serve();
    for (const contentType of ["text/plain", "application/json"]) {
      const stream = await Stream.create(base, { contentType, body: "1" });
      const before = await stream.head();
      for (const coding of ["gzip", "br", "deflate", "zstd", "x-own", "identity, gzip", "GZIP"]) {
        const answer = await stream.append("2", { "Content-Encoding": coding });
        expect(answer.status, coding).toBe(415);
        expect(answer.headers["accept-encoding"]).toBe("identity");
        expect(answer.json().error.code).toBe("content_encoding_not_supported");
        const fresh = new Stream(base, freshName(), contentType);
        expect(
          (await fresh.put({ body: "1", headers: { "Content-Encoding": coding } })).status,
        ).toBe(415);
        expect((await fresh.get()).status).toBe(404);
      }
      expect((await stream.head()).offset).toBe(before.offset);
      expect((await stream.append("2", { "Content-Encoding": "identity" })).status).toBe(204);
    }
  });

  test("a body in a transfer coding beside chunked is refused, and nothing is stored", async () => {
    const base = await serve();
    const stream = await Stream.create(base, { body: "abc" });
    const lines = [`POST ${stream.path} HTTP/1.1`, "Host: h", "Content-Type: text/plain"];
    const chunks = "1\r\nx\r\n0\r\n\r\n";
    for (const codings of [
      ["gzip, chunked"],
      ["gzip", "chunked"],
      ["br,chunked"],
      ["identity, chunked"],
    ]) {
      const answer = await raw(
        base,
        [...lines, ...codings.map((coding) => `Transfer-Encoding: ${coding}`)],
        chunks,
      );
      expect(answer.status, String(codings)).toBe(501);
    }
    expect(
      (await raw(base, [...lines, "Transfer-Encoding: chunked, chunked"], chunks)).status,
    ).toBeGreaterThanOrEqual(400);
    expect((await stream.get()).text).toBe("abc");
    expect((await raw(base, [...lines, "Transfer-Encoding: Chunked"], chunks)).status).toBe(204);
    expect((await stream.get()).text).toBe("abcx");
  });
});

describe("CORS_ORIGINS", () => {
  const listed = "https://app.example";
  const ownHeaders = (answer) =>
    Object.keys(answer.headers).filter((name) => name.startsWith("access-control-"));

  test("only listed origins get CORS headers, and only they may write", async () => {
    const base = await serve({
      CORS_ORIGINS: `${listed},http://localhost:3000`,
      LONG_POLL_TIMEOUT_MS: 500,
    });
    const stream = await Stream.create(base, { body: "abc" });
    const tail = (await stream.head()).offset;
    for (const [origin, may] of [
      [listed, true],
      ["http://localhost:3000", true],
      ["http://localhost:3001", false],
      ["http://app.example", false],
      ["https://app.example.evil", false],
      ["null", false],
    ]) {
      const headers = { Origin: origin };
      const wait = stream.longPoll((await stream.head()).offset, { headers });
      const append = await stream.append("x", headers);
      const events = await stream.events("-1", { headers });
      events.close();
      const reads = [
        await stream.get("", headers),
        await stream.head(headers),
        await stream.read(tail, headers),
        await stream.longPoll("-1", { headers }),
        events,
        await wait,
        await new Stream(base).get("", headers),
      ];
      const created = new Stream(base);
      const writes = [append, await created.put({ headers }), await created.delete(headers)];
      const preflights = [
        await stream.request("OPTIONS", {
          headers: { ...headers, "Access-Control-Request-Method": "POST" },
        }),
      ];
      for (const answer of [...reads, ...writes, ...preflights]) {
        expect(answer.headers["access-control-allow-origin"], origin).toBe(
          may ? origin : undefined,
        );
        expect(answer.headers.vary).toBe("Origin");
        expect(answer.headers["cross-origin-resource-policy"]).toBe("same-origin");
        if (!may) expect(ownHeaders(answer)).toEqual([]);
      }
      for (const answer of writes) expect(answer.status === 403, origin).toBe(!may);
      expect((await created.get()).status).toBe(404);
    }
    // Programs other than browsers send no Origin.
    expect((await stream.append("y")).status).toBe(204);
    expect((await stream.get()).text).toBe("abcxxy");
  });

  test("every answer has CORS headers, except to an append that names no origin", async () => {
    const stream = new Stream(await serve({ LONG_POLL_TIMEOUT_MS: 300 }));
    const created = await stream.put({ body: "abc" });
    const page = { Origin: "https://a.example" };
    const appends = [
      [await stream.append("x"), false],
      [await stream.append("x", page), true],
      [await stream.append("", page), true],
      [await stream.append(""), false],
    ];
    const others = [
      created,
      await stream.get(),
      await stream.get("", page),
      await stream.get("?offset=now&live=long-poll"),
      await stream.get("?offset=wrong"),
      await stream.head(),
      await stream.delete(),
      await stream.get(),
    ];
    for (const [answer, may] of [...appends, ...others.map((answer) => [answer, true])]) {
      const { headers, status } = answer;
      expect(headers["access-control-allow-origin"], String(status)).toBe(may ? "*" : undefined);
      expect(headers["access-control-expose-headers"] !== undefined).toBe(may);
      expect(headers["cross-origin-resource-policy"]).toBe("cross-origin");
      expect(headers.vary).toBeUndefined();
    }
  });

  test("OPTIONS for the whole server is answered like OPTIONS for a stream", async () => {
    const base = await serve();
    for (const target of ["*", "/", "/v1/stream/any"]) {
      const answer = await raw(base, [
        `OPTIONS ${target} HTTP/1.1`,
        "Host: h",
        "Origin: https://a.example",
      ]);
      expect(answer.status, target).toBe(204);
      expect(answer.head).toMatch(/^allow: GET, HEAD, PUT, POST, DELETE, OPTIONS\r?$/im);
      expect(answer.head).toMatch(/^access-control-allow-origin: \*\r?$/im);
    }
  });
});

describe.skipIf(shell === "worker")("the data directory", () => {
  async function* files(directory) {
    yield directory;
    for (const entry of await readdir(directory, { withFileTypes: true })) {
      const inside = path.join(directory, entry.name);
      if (entry.isDirectory()) yield* files(inside);
      else yield inside;
    }
  }

  test("other users cannot read any file, including cold storage", async () => {
    const parent = await mkdtemp(path.join(tmpdir(), "durable-streams-private-"));
    onTestFinished(() => rm(parent, { recursive: true, force: true }));
    const data = path.join(parent, "data");
    const server = await startServer({
      dataDirectory: data,
      env: { SEGMENT_MAX_MESSAGES: 2 },
      cold: "directory",
    });
    onTestFinished(() => server.stop());
    const stream = await Stream.create(server.url, { body: "abc" });
    for (let count = 0; count < 5; count += 1) await stream.append("x");
    await stream.close();
    await eventually("all is stored", async () => {
      const segments = await server.coldTier.segmentsOf(stream);
      return segments.reduce((sum, { messages }) => sum + messages, 0) === 6;
    });
    const seen = [];
    for await (const each of files(data)) {
      const { mode } = await stat(each);
      expect((mode & 0o777).toString(8), each).toBe(
        (await stat(each)).isDirectory() ? "700" : "600",
      );
      seen.push(each);
    }
    expect(seen.some((each) => each.endsWith(".sqlite"))).toBe(true);
    expect(seen.some((each) => each.includes("/cold/"))).toBe(true);
  });
});

describe("internal headers", () => {
  const reads = [
    ["catch-up", "?offset=-1"],
    ["long-poll behind the tail", "?offset=-1&live=long-poll"],
    ["long-poll at the tail", "?offset=now&live=long-poll"],
  ];
  const forged = [
    ["X-Cache-Mode: shared"],
    ["X-Object-Timing: 1"],
    ['Stream-Subscriber: {"class":"sse","attached":true}'],
    [
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ],
  ];
  // Headers that differ between answers even without a forged header.
  const changing = /^(date|stream-cursor|connection|keep-alive|cf-ray|report-to|nel): .*$/gim;
  const compared = ({ head, body }) => `${head.replace(changing, "")}\n\n${body}`;

  test("change no answer when a client sends them, and are in no answer", async () => {
    const base = await serve({ LONG_POLL_TIMEOUT_MS: "300" });
    const stream = await Stream.create(base, { body: "abc" });
    for (const [what, query] of reads) {
      const lines = [`GET ${stream.path}${query} HTTP/1.1`, "Host: h"];
      const plain = await raw(base, lines);
      expect(plain.head, what).not.toMatch(
        /^(stream-subscriber|x-cache-mode|x-object-timing|upgrade|server-timing):/im,
      );
      for (const headers of forged) {
        const answer = await raw(base, [...lines, ...headers]);
        expect(compared(answer), `${what}, ${headers[0]}`).toBe(compared(plain));
      }
    }
    for (const headers of forged) {
      const lines = [
        `POST ${stream.path} HTTP/1.1`,
        "Host: h",
        "Content-Type: text/plain",
        "Content-Length: 1",
        ...headers,
      ];
      expect((await raw(base, lines, "x")).status, headers[0]).toBe(204);
    }
    expect((await stream.get()).text).toBe("abcxxxx");
  });
});
