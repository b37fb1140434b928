// Bodies that are refused, that never arrive, and that exceed the memory of the Worker's isolate.

import net from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const MiB = 1 << 20;
// A body that never arrives would keep the answer away for ever.
const atOnceMs = 20_000;
const tries = 6;

describe.skipIf(shell !== "worker")("bodies", () => {
  let server;
  let guarded;
  beforeAll(async () => {
    server = await startServer();
    guarded = await startServer({ env: { AUTH_TOKEN: "secret" } });
  });
  afterAll(async () => {
    await server?.stop();
    await guarded?.stop();
  });

  /** Sends a head and the beginning of a body. Returns the first line of the answer. */
  function begin({ port }, line, headers, body = "") {
    const socket = net.connect(port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(
      `${line} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n${headers.join("\r\n")}\r\n\r\n${body}`,
    );
    const first = new Promise((resolve) => {
      socket.once("data", (text) => resolve(String(text)));
      socket.once("close", () => resolve("closed"));
    });
    return { socket, first };
  }

  /**
   * Posts a large body several times. Returns the answers that the client could read.
   *
   * @param {string} url
   * @param {RequestInit} options
   */
  async function readable(url, options) {
    const answers = [];
    for (let count = 0; count < tries; count += 1) {
      try {
        const answer = await fetch(url, { method: "POST", ...options });
        const { status, headers } = answer;
        answers.push({ status, headers, text: await answer.text() });
      } catch {
        // A client that stalls while it sends gets a reset, because the runtime does not wait long
        // for the rest of the body.
      }
    }
    expect(answers.length).toBeGreaterThan(tries / 2);
    return answers;
  }

  test.each([17, 64])("a client can read the 413 for its body of %i MiB", async (size) => {
    const stream = await Stream.create(server.url);
    const body = Buffer.alloc(size * MiB, 120);
    const headers = { "Content-Type": "text/plain" };
    for (const answer of await readable(stream.url, { headers, body })) {
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([413, null]);
      expect(JSON.parse(answer.text).error.code).toBe("body_too_large");
    }
  });

  test("a client can read the 413 for a body without a length, or for a head", async () => {
    const stream = await Stream.create(server.url);
    const chunks = Array.from({ length: 20 }, () => Buffer.alloc(MiB, 120));
    expect((await stream.append(chunks)).status).toBe(413);
    const body = Buffer.alloc(10 * MiB, 120);
    const headers = { "Content-Type": "text/plain", "Producer-Id": "alone" };
    for (const { status } of await readable(stream.url, { headers, body })) {
      expect(status).toBe(400);
    }
    const guardedUrl = `${guarded.url}/v1/stream/any`;
    for (const { status } of await readable(guardedUrl, { headers, body })) {
      expect(status).toBe(401);
    }
  });

  test.each([
    ["GET", 200, []],
    ["HEAD", 200, []],
    ["POST", 400, ["Content-Type: text/plain", "Producer-Id: alone"]],
    ["DELETE", 204, []],
  ])("a %s whose body never arrives is answered at once", async (method, status, headers) => {
    const stream = await Stream.create(server.url);
    const began = performance.now();
    const { socket, first } = begin(server, `${method} ${stream.path}`, [
      ...headers,
      "Content-Length: 5",
    ]);
    expect(await first).toMatch(`HTTP/1.1 ${status} `);
    expect(performance.now() - began).toBeLessThan(atOnceMs);
    socket.destroy();
  });

  test("a request without its token is answered at once", async () => {
    const began = performance.now();
    const { socket, first } = begin(guarded, "POST /v1/stream/any", [
      "Content-Type: text/plain",
      "Content-Length: 5",
    ]);
    expect(await first).toMatch("HTTP/1.1 401 ");
    expect(performance.now() - began).toBeLessThan(atOnceMs);
    socket.destroy();
  });

  test("bodies beyond an isolate's memory are answered 503, and the memory is freed", async () => {
    const stream = await Stream.create(server.url);
    const announced = ["Content-Type: text/plain", `Content-Length: ${16 * MiB}`];
    const waiting = [0, 1].map(() => begin(server, `POST ${stream.path}`, announced, "x"));
    const third = await eventually("a body without room", async () => {
      const { socket, first } = begin(server, `POST ${stream.path}`, announced, "x");
      const answer = await Promise.race([
        first,
        new Promise((resolve) => setTimeout(resolve, 3_000, "")),
      ]);
      socket.destroy();
      return answer;
    });
    expect(third).toMatch("HTTP/1.1 503 ");
    expect(third).toMatch(/retry-after: 1/i);
    expect((await stream.append("small ones go on")).status).toBe(204);
    for (const { socket } of waiting) socket.destroy();
    await eventually(
      "the memory is freed",
      async () => (await stream.append(Buffer.alloc(16 * MiB, 120))).status === 204,
    );
    expect((await stream.head()).status).toBe(200);
  });
});
