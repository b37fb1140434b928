// An incomplete body is not a body: no part of it may be stored.

import net from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { request, sleep } from "../harness/http.mjs";
import { producer, Stream } from "../harness/stream.mjs";
import { startOrUse } from "../harness/target.mjs";

let server;

beforeAll(async () => {
  server = await startOrUse();
});
afterAll(() => server?.stop());

const ends = {
  "is reset": (socket) => socket.resetAndDestroy(),
  "is closed": (socket) => socket.destroy(),
  "is closed for writing": (socket) => socket.end(),
};

const framings = {
  "a length that is never reached": { header: "Content-Length: 1000", part: (text) => text },
  "a chunked body without its last chunk": {
    header: "Transfer-Encoding: chunked",
    part: (text) => `${text.length.toString(16)}\r\n${text}\r\n`,
  },
  "a chunk that is cut in the middle": {
    header: "Transfer-Encoding: chunked",
    part: (text) => `${(text.length + 100).toString(16)}\r\n${text}`,
  },
};

// Sends the beginning of a request, waits until the server has read it, and ends the connection.
async function sendHalf(stream, method, headers, part, end) {
  const { hostname, port, host } = new URL(stream.base);
  const socket = net.connect(Number(port), hostname);
  socket.on("error", () => {});
  await new Promise((resolve) => socket.once("connect", resolve));
  const lines = [`${method} ${stream.path} HTTP/1.1`, `Host: ${host}`, ...headers];
  socket.write(`${lines.join("\r\n")}\r\n\r\n${part}`);
  await sleep(100);
  end(socket);
  await sleep(200);
  socket.destroy();
}

const cases = Object.entries(framings).flatMap(([framing, { header, part }]) =>
  Object.entries(ends).map(([ending, end]) => [framing, ending, header, part, end]),
);

test.each(cases)(
  "an append with %s, whose connection %s, stores nothing",
  async (_framing, _ending, header, part, end) => {
    const texts = await Stream.create(server.url, { body: "before" });
    const messages = await Stream.create(server.url, {
      contentType: "application/json",
      body: '["before"]',
    });
    await Promise.all([
      sendHalf(texts, "POST", ["Content-Type: text/plain", header], part("half of it"), end),
      // The part that has arrived would be valid by itself.
      sendHalf(
        messages,
        "POST",
        ["Content-Type: application/json", "Stream-Closed: true", header],
        part('["half"]'),
        end,
      ),
    ]);
    expect((await texts.get()).text).toBe("before");
    const read = await messages.get();
    expect(read.text).toBe('["before"]');
    expect(read.closed).toBeUndefined();
    expect((await texts.append(" after")).status).toBe(204);
    expect((await texts.get()).text).toBe("before after");
  },
);

test.each(cases)(
  "a PUT with %s, whose connection %s, creates nothing",
  async (_framing, _ending, header, part, end) => {
    const stream = new Stream(server.url);
    await sendHalf(stream, "PUT", ["Content-Type: text/plain", header], part("half of it"), end);
    expect((await stream.get()).status).toBe(404);
    expect((await stream.put({ body: "whole" })).status).toBe(201);
    expect((await stream.get()).text).toBe("whole");
  },
);

test("a producer's request that was cut off does not use up its sequence number", async () => {
  const stream = await Stream.create(server.url);
  const headers = Object.entries(producer("p", 0, 0)).map(([name, value]) => `${name}: ${value}`);
  await sendHalf(
    stream,
    "POST",
    ["Content-Type: text/plain", "Content-Length: 1000", ...headers],
    "half",
    ends["is reset"],
  );
  expect((await stream.append("whole", producer("p", 0, 0))).status).toBe(200);
  expect((await stream.get()).text).toBe("whole");
});

test("while a slow body arrives, other clients append and read", async () => {
  const stream = await Stream.create(server.url);
  const { hostname, port, host } = new URL(server.url);
  const socket = net.connect(Number(port), hostname);
  socket.on("error", () => {});
  socket.write(
    `POST ${stream.path} HTTP/1.1\r\nHost: ${host}\r\nContent-Type: text/plain\r\nContent-Length: 8\r\nConnection: close\r\n\r\nslow`,
  );
  await sleep(100);
  for (let index = 0; index < 5; index += 1)
    expect((await stream.append(`${index}`)).status).toBe(204);
  expect((await stream.get()).text).toBe("01234");
  const answered = new Promise((resolve) =>
    socket.once("data", (bytes) => resolve(bytes.toString("latin1"))),
  );
  socket.write("slow");
  expect(await answered).toMatch(/^HTTP\/1\.1 204 /);
  socket.destroy();
  expect((await stream.get()).text).toBe("01234slowslow");
});

test("the server still works after a hundred requests that were cut off", async () => {
  const stream = await Stream.create(server.url);
  await Promise.all(
    Array.from({ length: 100 }, () =>
      sendHalf(
        stream,
        "POST",
        ["Content-Type: text/plain", "Content-Length: 100000"],
        "x".repeat(50_000),
        ends["is reset"],
      ),
    ),
  );
  expect((await stream.head()).offset).toBe(stream.start);
  expect(
    (
      await request(server.url, stream.path, {
        method: "POST",
        headers: { "Content-Type": "text/plain" },
        body: "whole",
        timeoutMs: 30_000,
      })
    ).status,
  ).toBe(204);
});
