// Appends that arrive while a commit is in flight wait for it, and share the next one. Their
// answers are those that they would get one by one.

import net from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";

const range = (count) => Array.from({ length: count }, (_, index) => index);

let server;

beforeAll(async () => {
  server = await startServer();
});
afterAll(() => server?.stop());

test("each of 64 appends at once is there once, before the offset of its answer", async () => {
  const stream = await Stream.create(server.url, { contentType: "application/json", body: "[-1]" });
  const before = shell === "worker" ? await stream.statistics() : undefined;
  const answers = await Promise.all(range(64).map((index) => stream.append(String(index))));
  expect(answers.map((answer) => answer.status)).toEqual(range(64).map(() => 204));
  const ends = answers.map((answer, index) => ({ offset: answer.offset, index }));
  ends.sort((one, other) => (one.offset < other.offset ? -1 : 1));
  expect(new Set(ends.map(({ offset }) => offset)).size).toBe(64);
  expect((await stream.get()).json()).toEqual([-1, ...ends.map(({ index }) => index)]);
  // A read from any of these offsets begins with the append after it.
  for (const place of [0, 20, 62]) {
    const rest = (await stream.read(ends[place].offset)).json();
    expect(rest).toEqual(ends.slice(place + 1).map(({ index }) => index));
  }
  if (before !== undefined) {
    const after = await stream.statistics();
    expect(after.instance).toBe(before.instance);
    expect(after.rows_written - before.rows_written).toBeLessThan(60);
  }
});

test("of ten copies of one request at once, one is stored", async () => {
  const stream = await Stream.create(server.url);
  const copies = range(10).map(() => stream.append("once", producer("p", 0, 0)));
  const statuses = (await Promise.all(copies)).map((answer) => answer.status);
  expect(statuses.sort()).toEqual([200, ...range(9).map(() => 204)]);
  expect((await stream.get()).text).toBe("once");
});

test("refused appends between others leave nothing behind", async () => {
  const stream = await Stream.create(server.url);
  await stream.append("a", producer("p", 0, 0));
  const answers = await Promise.all(
    range(40).map((index) =>
      index % 2 === 0
        ? stream.append("x")
        : stream.append("refused", producer("p", 0, 7)),
    ),
  );
  expect(answers.map((answer) => answer.status)).toEqual(
    range(40).map((index) => (index % 2 === 0 ? 204 : 409)),
  );
  expect((await stream.get()).text).toBe(`a${"x".repeat(20)}`);
  expect((await stream.append("b", producer("p", 0, 1))).status).toBe(200);
});

test("a close among appends ends them all, and what came before it is there", async () => {
  const stream = await Stream.create(server.url);
  const appends = range(30).map(() => stream.append("x"));
  const closed = stream.close();
  const more = range(30).map(() => stream.append("x"));
  expect((await closed).status).toBe(204);
  const statuses = (await Promise.all([...appends, ...more])).map((answer) => answer.status);
  const stored = statuses.filter((status) => status === 204).length;
  expect(statuses.every((status) => status === 204 || status === 409)).toBe(true);
  const end = await stream.get();
  expect(end.text).toBe("x".repeat(stored));
  expect(end.closed).toBe("true");
});

test("an append whose client leaves counts as sent", async () => {
  const stream = await Stream.create(server.url);
  const { hostname, port } = new URL(server.url);
  const waits = range(20).map(() => stream.append("x"));
  const socket = net.connect(Number(port), hostname);
  const head = `POST ${stream.path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n`;
  socket.end(`${head}Content-Type: text/plain\r\nContent-Length: 4\r\n\r\nleft`, () =>
    socket.destroySoon(),
  );
  await Promise.all(waits);
  await eventually("the append is there", async () =>
    (await stream.get()).text.includes("left"),
  );
  expect((await stream.get()).text.length).toBe(24);
});

test("readers at the tail get every append once, several in a message", async () => {
  const stream = await Stream.create(server.url);
  const events = await stream.events("now");
  await Promise.all(range(50).map(() => stream.append("x")));
  await eventually("all appends came", async () => events.text.length >= 50);
  expect(events.text).toBe("x".repeat(50));
  expect(events.chunks.length).toBeLessThan(50);
  events.close();
});
