// Features of the server for one machine only: files, bounds, signals, and its own two paths.

import { existsSync } from "node:fs";
import http from "node:http";
import { mkdtemp, readdir, readlink, rm } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { eventually, exchange, request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { freshName, producer, Stream } from "../harness/stream.mjs";

const range = (count) => Array.from({ length: count }, (_, index) => index);

async function serve(env, options) {
  const server = await startServer({ env, ...options });
  onTestFinished(() => server.stop());
  return server;
}

async function temporaryDirectory() {
  const directory = await mkdtemp(path.join(tmpdir(), "durable-streams-files-"));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return path.join(directory, "data");
}

/**
 * The files of streams, without SQLite's auxiliary files and without the registry's file.
 */
async function files({ dataDirectory }) {
  const all = await readdir(path.join(dataDirectory, "streams"), { recursive: true });
  return all.filter(
    (file) => file.endsWith(".sqlite") && !path.basename(file).startsWith("__registry__."),
  );
}

/** The values of a metric, by its labels. */
async function metric({ url }, name) {
  const lines = (await request(url, "/metrics")).text
    .split("\n")
    .filter((line) => line.startsWith(`durable_streams_${name}`));
  return new Map(
    lines.map((line) => [
      line.slice(0, line.lastIndexOf(" ")),
      Number(line.slice(line.lastIndexOf(" ") + 1)),
    ]),
  );
}

describe.runIf(shell === "server")("files", () => {
  test("a stream of any name has one file from its creation to its deletion", async () => {
    const server = await serve({});
    const names = [
      "a",
      "A",
      "a/b",
      "a%2Fb",
      ".hidden",
      "...",
      "con",
      "-rf",
      "%00",
      "%F0%9F%98%80",
      "x".repeat(1_024),
      "x".repeat(1_023),
      "a/".repeat(400),
    ];
    const streams = names.map((name) => new Stream(server.url, name));
    for (const [index, stream] of streams.entries())
      expect((await stream.put({ body: `${index}` })).status, stream.name).toBe(201);
    for (const [index, stream] of streams.entries())
      expect((await stream.get()).text).toBe(`${index}`);
    const kept = await files(server);
    expect(new Set(kept.map((file) => file.toLowerCase())).size).toBe(names.length);
    for (const file of kept)
      expect(path.basename(file)).toMatch(/^[a-z0-9_-]{1,40}\.[0-9a-f]{64}\.sqlite$/);
    for (const stream of streams) expect((await stream.delete()).status).toBe(204);
    await eventually("no file", async () => (await files(server)).length === 0);
  });

  test("requests for an unknown stream leave no file", async () => {
    const server = await serve({});
    const stream = new Stream(server.url);
    const answers = [
      await stream.get(),
      await stream.longPoll("-1"),
      await stream.events("-1"),
      await stream.head(),
      await stream.append("x"),
      await stream.append("x", producer("p", 0, 0)),
      await stream.close(),
      await stream.delete(),
    ];
    for (const answer of answers) expect(answer.status).toBe(404);
    expect((await stream.put({ headers: { "Stream-TTL": "x" } })).status).toBe(400);
    expect(await files(server)).toEqual([]);
  });

  test.skipIf(process.platform !== "linux")(
    "more streams than may be open are served, each with all of its data",
    async () => {
      const [open, threads] = [4, 3];
      const server = await serve({ OPEN_STREAMS_MAX: open, STORAGE_THREADS: threads });
      const streams = await Promise.all(
        range(60).map(() => Stream.create(server.url, { contentType: "application/json" })),
      );
      const readers = await Promise.all(streams.slice(0, 10).map((stream) => stream.events("-1")));
      await Promise.all(readers.map((reader) => reader.upToDate()));
      let most = 0;
      for (const round of range(5)) {
        const appending = streams.map((stream, index) =>
          stream.append(JSON.stringify([round, index].join()), producer("p", 0, round)),
        );
        const descriptors = await readdir(`/proc/${server.pid}/fd`);
        const targets = await Promise.all(
          descriptors.map((descriptor) =>
            readlink(`/proc/${server.pid}/fd/${descriptor}`).catch(() => ""),
          ),
        );
        most = Math.max(most, targets.filter((target) => target.includes("/streams/")).length);
        for (const answer of await Promise.all(appending)) expect(answer.status).toBe(200);
      }
      expect(most).toBeGreaterThan(0);
      // Each has a database and a log.
      expect(most).toBeLessThanOrEqual(2 * (open + threads));
      for (const [index, stream] of streams.entries())
        expect(await stream.messages()).toEqual(range(5).map((round) => [round, index].join()));
      for (const [index, reader] of readers.entries()) {
        await eventually("all messages", () => reader.messages.length === 5);
        expect(reader.messages).toEqual(range(5).map((round) => [round, index].join()));
        reader.close();
      }
    },
  );

  test("an expired stream leaves no file, without any request, even after a kill", async () => {
    const dataDirectory = await temporaryDirectory();
    let server = await serve({}, { dataDirectory });
    await Stream.create(server.url, { body: "abc", headers: { "Stream-TTL": "1" } });
    const kept = await Stream.create(server.url, { body: "abc", headers: { "Stream-TTL": "600" } });
    expect(await files(server)).toHaveLength(2);
    await eventually("one file", async () => (await files(server)).length === 1);
    await Stream.create(server.url, { body: "abc", headers: { "Stream-TTL": "1" } });
    await server.kill();
    expect(await files(server)).toHaveLength(2);
    server = await serve({}, { dataDirectory });
    await eventually("one file", async () => (await files(server)).length === 1);
    kept.base = server.url;
    expect((await kept.get()).text).toBe("abc");
  });

  test("a directory has one server at a time", async () => {
    const dataDirectory = await temporaryDirectory();
    await serve({}, { dataDirectory });
    await expect(startServer({ dataDirectory })).rejects.toThrow(
      "another server uses this directory",
    );
  });
});

describe.runIf(shell === "server")("commits", () => {
  test("concurrent appends share commits, and each is stored once", async () => {
    const server = await serve({});
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const [connections, each] = [64, 30];
    const agent = new http.Agent({ keepAlive: true, maxSockets: connections });
    onTestFinished(() => agent.destroy());
    await Promise.all(
      range(connections).map(async (writer) => {
        for (const index of range(each))
          expect(
            (await stream.append(JSON.stringify([`${writer}-${index}`]), {}, { agent })).status,
          ).toBe(204);
      }),
    );
    const messages = await stream.messages();
    expect(new Set(messages).size).toBe(connections * each);
    expect(messages).toHaveLength(connections * each);
    const commits = (await metric(server, "commit_jobs")).get("durable_streams_commit_jobs_count");
    expect(commits).toBeLessThan((connections * each) / 2);
  });

  test("a failed turn undoes only itself, and its batch is repeated", async () => {
    const server = await serve({});
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const answers = await Promise.all(
      range(200).map((index) =>
        stream.append(String(index), {
          ...producer(`p${index}`, 0, 0),
          ...(index % 10 === 7 ? { "X-Test-Op": "panic" } : {}),
        }),
      ),
    );
    for (const [index, answer] of answers.entries())
      expect(answer.status, `${index}`).toBe(index % 10 === 7 ? 503 : 200);
    const expected = range(200).filter((index) => index % 10 !== 7);
    expect((await stream.messages()).sort((a, b) => a - b)).toEqual(expected);
  });
});

describe.runIf(shell === "server")("signals", () => {
  test.each(["SIGTERM", "SIGINT"])(
    "%s answers waiting requests, ends live reads, and loses nothing",
    async (signal) => {
      const dataDirectory = await temporaryDirectory();
      const server = await serve({}, { dataDirectory });
      const stream = await Stream.create(server.url, {
        contentType: "application/json",
        body: "[0]",
      });
      const readers = await Promise.all(range(20).map(() => stream.events("-1")));
      await Promise.all(readers.map((reader) => reader.upToDate()));
      const polls = range(20).map(() => stream.longPoll("now", { agent: false }));
      const idle = net.connect(server.port, "127.0.0.1");
      idle.on("error", () => {});
      await sleep(200);
      const begun = performance.now();
      process.kill(server.pid, signal);
      for (const reader of readers) await reader.end({ timeoutMs: 3_000 });
      for (const answer of await Promise.all(polls)) expect(answer.status).toBe(204);
      idle.destroy();
      expect(await server.ended()).toEqual({ code: 0, signal: null });
      expect(performance.now() - begun).toBeLessThan(5_000);
      // All data is in one file.
      const left = await readdir(path.join(dataDirectory, "streams"), { recursive: true });
      expect(left.filter((file) => /-(wal|shm|journal)$/.test(file))).toEqual([]);

      const again = await serve({}, { dataDirectory, port: server.port });
      const offset = readers[0].controls.at(-1).streamNextOffset;
      const resumed = await stream.events(offset);
      expect((await stream.append("1")).status).toBe(204);
      expect((await resumed.next({ type: "data" })).data).toBe("[1]");
      resumed.close();
      expect(again.port).toBe(server.port);
    },
  );
});

describe.runIf(shell === "server")("bounds", () => {
  function expectUnavailable(answer) {
    expect(answer.status).toBe(503);
    expect(Number(answer.headers["retry-after"])).toBeGreaterThan(0);
    expect(answer.json().error.code).toBe("unavailable");
    expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
  }

  test("live readers beyond the bound are answered 503 until another leaves", async () => {
    const server = await serve({ READERS_MAX: 2 });
    const stream = await Stream.create(server.url);
    const readers = [await stream.events("-1"), await stream.events("-1")];
    await Promise.all(readers.map((reader) => reader.upToDate()));
    expectUnavailable(await stream.events("-1"));
    expectUnavailable(await stream.longPoll("-1"));
    expect((await stream.get()).status).toBe(200);
    expect([...(await metric(server, "refused_total")).values()]).toEqual([2]);
    readers[0].close();
    const next = await eventually("room for a reader", async () => {
      const reader = await stream.events("-1");
      return reader.status === 200 && reader;
    });
    next.close();
    readers[1].close();
  });

  test("connections beyond the bound are answered 503, and replace an idle one", async () => {
    const server = await serve({ CONNECTIONS_MAX: 2 });
    const stream = new Stream(server.url);
    await stream.put();
    const ask = () => request(server.url, stream.path, { agent: false });
    const idle = net.connect(server.port, "127.0.0.1");
    idle.on("error", () => {});
    idle.resume();
    await new Promise((resolve) => idle.once("connect", resolve));
    const readers = [await stream.events("-1")];
    await readers[0].upToDate();
    expect((await ask()).status).toBe(200);
    await eventually(
      "the end of the idle connection",
      () => idle.destroyed || idle.readableEnded || !idle.readable,
    );
    readers.push(await stream.events("-1"));
    await readers[1].upToDate();
    expectUnavailable(await ask());
    readers[0].close();
    await eventually("room for a connection", async () => (await ask()).status === 200);
    readers[1].close();
  });

  test("bodies beyond the bound are answered 503, with or without a length", async () => {
    const server = await serve({ BODIES_BYTES_MAX: 1_000 });
    const stream = await Stream.create(server.url);
    expectUnavailable(await stream.append("x".repeat(1_001)));
    expectUnavailable(await stream.append(["x".repeat(600), "x".repeat(600)]));
    for (let index = 0; index < 5; index += 1)
      expect((await stream.append("x".repeat(1_000))).status).toBe(204);
    expect((await stream.get()).text).toHaveLength(5_000);
  });

  test("a head beyond the bound is refused, and costs only its connection", async () => {
    const server = await serve({});
    const large = await exchange(
      server.url,
      `GET / HTTP/1.1\r\nHost: x\r\nX-Large: ${"x".repeat(300_000)}\r\n\r\n`,
    );
    expect(large.toString("latin1")).toMatch(/^HTTP\/1\.1 431 /);
    const many = await exchange(
      server.url,
      `GET / HTTP/1.1\r\nHost: x\r\n${range(200)
        .map((index) => `X-${index}: x\r\n`)
        .join("")}\r\n`,
    );
    expect(many.toString("latin1")).toMatch(/^HTTP\/1\.1 431 /);
    expect((await request(server.url, "/health")).status).toBe(200);
  });

  test("bytes that are not HTTP are refused, and cost only their connection", async () => {
    const server = await serve({});
    for (const bytes of [
      "\r\n\r\n\0\0\0",
      "GET\r\n\r\n",
      "GET / HTTP/9.9\r\n\r\n",
      "POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
      "\x16\x03\x01\x02\x00\x01",
    ]) {
      const answer = (await exchange(server.url, bytes)).toString("latin1");
      expect(answer).toMatch(/^(HTTP\/1\.1 400 |$)/);
    }
    expect((await request(server.url, "/health")).status).toBe(200);
  });
});

describe.runIf(shell === "server")("its own paths", () => {
  test("/health says that the server works, and /metrics has its counters", async () => {
    const server = await serve({ AUTH_TOKEN: "secret" });
    expect((await request(server.url, "/health")).json()).toEqual({ status: "ok" });
    await new Stream(server.url, freshName()).put({ headers: { Authorization: "Bearer secret" } });
    await new Stream(server.url, freshName()).put();
    const requests = await metric(server, "requests_total");
    expect(requests.get('durable_streams_requests_total{method="PUT",status="201"}')).toBe(1);
    expect(requests.get('durable_streams_requests_total{method="PUT",status="401"}')).toBe(1);
    // The registry's file is there, too, once it has the event.
    await eventually(
      "two open streams",
      async () => (await metric(server, "open_streams")).get("durable_streams_open_streams") === 2,
    );
    for (const own of ["/health", "/metrics"]) {
      expect((await request(server.url, own, { method: "POST" })).status).toBe(404);
      expect((await request(server.url, own, { method: "HEAD" })).body.length).toBe(0);
    }
  });

  test("the data directory is created where the setting says", async () => {
    const dataDirectory = path.join(await temporaryDirectory(), "deep", "er");
    await serve({}, { dataDirectory });
    expect(existsSync(path.join(dataDirectory, "streams"))).toBe(true);
  });
});
