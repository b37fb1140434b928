// Features of the server for one machine only: shards, bounds, signals, and its own two paths.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import http from "node:http";
import { copyFile, mkdtemp, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { describe, expect, onTestFinished, test } from "vitest";
import { eventually, exchange, request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { announced } from "../harness/settled.mjs";
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

/** The files of the shards, in the order of their numbers. */
async function shardFiles(dataDirectory) {
  const all = await readdir(path.join(dataDirectory, "shards"));
  const shards = all.filter((file) => file.endsWith(".sqlite"));
  return shards
    .sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10))
    .map((file) => path.join(dataDirectory, "shards", file));
}

/** Whether nothing of a stream is stored. */
const isFreed = async (stream) => (await stream.statistics()).tables.length === 0;

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

describe.runIf(shell === "server")("shards", () => {
  test("streams of any name share the files, and leave nothing when they are deleted", async () => {
    const server = await serve({ SHARDS: 3 });
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
    expect((await shardFiles(server.dataDirectory)).map((file) => path.basename(file))).toEqual([
      "0.sqlite",
      "1.sqlite",
      "2.sqlite",
    ]);
    for (const stream of streams) expect((await stream.delete()).status).toBe(204);
    for (const stream of streams) await eventually("no row", () => isFreed(stream));
  });

  test("requests for an unknown stream leave no row", async () => {
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
    expect(await isFreed(stream)).toBe(true);
  });

  test("more streams than may be in memory are served, each with all of its data", async () => {
    const server = await serve({ LOADED_STREAMS_MAX: 4, STORAGE_THREADS: 3 });
    const streams = await Promise.all(
      range(60).map(() => Stream.create(server.url, { contentType: "application/json" })),
    );
    const readers = await Promise.all(streams.slice(0, 10).map((stream) => stream.events("-1")));
    await Promise.all(readers.map((reader) => reader.upToDate()));
    for (const round of range(5)) {
      const appending = streams.map((stream, index) =>
        stream.append(JSON.stringify([round, index].join()), producer("p", 0, round)),
      );
      for (const answer of await Promise.all(appending)) expect(answer.status).toBe(200);
    }
    await eventually(
      "few streams in memory",
      async () =>
        (await metric(server, "loaded_streams")).get("durable_streams_loaded_streams") <= 8,
    );
    for (const [index, stream] of streams.entries())
      expect(await stream.messages()).toEqual(range(5).map((round) => [round, index].join()));
    for (const [index, reader] of readers.entries()) {
      await eventually("all messages", () => reader.messages.length === 5);
      expect(reader.messages).toEqual(range(5).map((round) => [round, index].join()));
      reader.close();
    }
  });

  test("an expired stream leaves no row, without any request, even after a kill", async () => {
    const dataDirectory = await temporaryDirectory();
    let server = await serve({}, { dataDirectory });
    const first = await Stream.create(server.url, { body: "abc", headers: { "Stream-TTL": "1" } });
    const kept = await Stream.create(server.url, { body: "abc", headers: { "Stream-TTL": "600" } });
    await eventually("no row", () => isFreed(first));
    const second = await Stream.create(server.url, { body: "abc", headers: { "Stream-TTL": "1" } });
    await server.kill();
    server = await serve({}, { dataDirectory });
    second.base = server.url;
    await eventually("no row", () => isFreed(second));
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

  test("a directory keeps its number of shards", async () => {
    const dataDirectory = await temporaryDirectory();
    const server = await serve({ SHARDS: 3 }, { dataDirectory });
    await server.stop();
    await expect(startServer({ dataDirectory, env: { SHARDS: 2 } })).rejects.toThrow(
      /it has 3 shards, and not 2; .*durable-streams reshard --data .* --shards 2/,
    );
    await serve({}, { dataDirectory });
    expect(await shardFiles(dataDirectory)).toHaveLength(3);
  });

  test("reshard changes the number of shards, and keeps all streams", async () => {
    const dataDirectory = await temporaryDirectory();
    let server = await serve({ SHARDS: 1 }, { dataDirectory });
    const streams = await Promise.all(
      range(20).map((index) => Stream.create(server.url, { body: `stream ${index}` })),
    );
    const reshard = (shards) =>
      promisify(execFile)(server.binary, [
        "reshard",
        "--data",
        dataDirectory,
        "--shards",
        String(shards),
      ]);
    await expect(reshard(3)).rejects.toThrow("another server uses this directory");
    await server.stop();
    expect((await reshard(3)).stderr).toMatch(/^[23][0-9] streams are in 3 shards now\n$/);
    expect(await shardFiles(dataDirectory)).toHaveLength(3);
    server = await serve({ SHARDS: 3 }, { dataDirectory });
    for (const [index, stream] of streams.entries()) {
      stream.base = server.url;
      expect((await stream.get()).text).toBe(`stream ${index}`);
      expect((await stream.append("!")).status).toBe(204);
    }
  });

  test("a damaged row is answered 500, and other streams are not affected", async () => {
    const dataDirectory = await temporaryDirectory();
    let server = await serve({ SHARDS: 1 }, { dataDirectory });
    const damaged = await Stream.create(server.url, { body: "before" });
    const whole = await Stream.create(server.url, { body: "whole" });
    expect((await damaged.append("a body to be damaged")).status).toBe(204);
    await server.stop();
    const [file] = await shardFiles(dataDirectory);
    const bytes = await readFile(file);
    const at = bytes.indexOf("a body to be damaged");
    bytes[at] ^= 1;
    await writeFile(file, bytes);
    server = await serve({ SHARDS: 1 }, { dataDirectory });
    [damaged.base, whole.base] = [server.url, server.url];
    for (const answer of [await damaged.get(), await damaged.get(), await damaged.events("-1")]) {
      expect(answer.status).toBe(500);
      expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
    }
    expect((await damaged.get()).json().error.message).toBe(
      "a stored row of the stream is damaged",
    );
    expect((await whole.get()).text).toBe("whole");
    expect((await whole.append("!")).status).toBe(204);
    // The log names the place.
    const place = server.output().match(/stream (.+) is damaged: segment 0, key \d+/);
    expect(place?.[1]).toContain(damaged.name);
    // The rest can still be deleted.
    expect((await damaged.delete()).status).toBe(204);
    await eventually("no row", () => isFreed(damaged));
  });

  test("a file of another directory is refused", async () => {
    const [one, other] = [await temporaryDirectory(), await temporaryDirectory()];
    for (const dataDirectory of [one, other])
      await (await serve({ SHARDS: 2 }, { dataDirectory })).stop();
    const [, file] = await shardFiles(one);
    await copyFile((await shardFiles(other))[1], file);
    await expect(startServer({ dataDirectory: one })).rejects.toThrow(
      /1\.sqlite: it is shard 1 of 2 of the directory [0-9a-f]{32}, and not shard 1 of 2/,
    );
  });

  test("files shrink after large deletions", async () => {
    const dataDirectory = await temporaryDirectory();
    const server = await serve({ SHARDS: 1 }, { dataDirectory });
    const stream = await Stream.create(server.url);
    for (const _ of range(24)) await stream.append("x".repeat(1 << 20));
    const other = await Stream.create(server.url);
    expect((await stream.delete()).status).toBe(204);
    await eventually("no row", () => isFreed(stream));
    const [file] = await shardFiles(dataDirectory);
    // A bounded number of pages is given back with each commit.
    for (const _ of range(40)) await other.append("x");
    await server.stop();
    expect((await stat(file)).size).toBeLessThan(4 << 20);
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

  test("streams of a shard share commits", async () => {
    const server = await serve({ SHARDS: 1 });
    const streams = await Promise.all(range(64).map(() => Stream.create(server.url)));
    const count = async () =>
      (await metric(server, "commit_jobs")).get("durable_streams_commit_jobs_count");
    const before = await count();
    const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });
    onTestFinished(() => agent.destroy());
    await Promise.all(
      streams.map(async (stream) => {
        for (const _ of range(20))
          expect((await stream.append("x", {}, { agent })).status).toBe(204);
      }),
    );
    expect((await count()) - before).toBeLessThan((64 * 20) / 2);
    for (const stream of streams) expect((await stream.get()).text).toBe("x".repeat(20));
  });

  test("a failed turn undoes only itself", async () => {
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

  test("reads do not wait for a slow commit of another stream", async () => {
    const server = await serve({ SHARDS: 1 });
    const streams = [await Stream.create(server.url), await Stream.create(server.url, { body: "x" })];
    // A read waits behind writes of its own stream, so let the registry answer first.
    const registry = new Stream(server.url, "__registry__", "application/json");
    await eventually(
      "the registry has both streams",
      async () =>
        (await registry.head()).status === 200 && (await registry.messages()).length >= 2,
    );
    for (const stream of streams) await announced(stream);
    const begun = performance.now();
    const slow = streams[0].append("slow", { "X-Test-Op": "slow-commit" });
    await sleep(200);
    expect((await streams[1].get()).text).toBe("x");
    expect((await streams[1].head()).status).toBe(200);
    const reader = await streams[1].events("-1");
    await reader.upToDate();
    expect(performance.now() - begun).toBeLessThan(4_000);
    // A write waits, for this one commit.
    expect((await streams[1].append("y")).status).toBe(204);
    const took = performance.now() - begun;
    expect(took).toBeGreaterThan(4_500);
    expect(took).toBeLessThan(9_500);
    expect((await slow).status).toBe(204);
    reader.close();
  });

  test("a failed commit is not acknowledged, and the shard opens again", async () => {
    const server = await serve({ SHARDS: 1 });
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const other = await Stream.create(server.url, { contentType: "application/json" });
    // Any later commit of the shard would end the failure.
    for (const each of [stream, other]) await announced(each);
    const reader = await stream.events("-1");
    await reader.upToDate();
    const failed = await stream.append("1", { "X-Test-Op": "failed-commit" });
    expect(failed.status).toBe(503);
    expect(Number(failed.headers["retry-after"])).toBeGreaterThan(0);
    expect((await request(server.url, "/health")).status).toBe(503);
    expect(await other.messages()).toEqual([]);
    for (const each of [stream, other]) expect((await each.append("2")).status).toBe(204);
    expect(await stream.messages()).toEqual([2]);
    await eventually("the message", () => reader.messages.length > 0);
    expect(reader.messages).toEqual([2]);
    reader.close();
    expect((await request(server.url, "/health")).status).toBe(200);
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
      await eventually("all wait", async () => (await stream.statistics()).subscribers === 40);
      const begun = performance.now();
      process.kill(server.pid, signal);
      for (const reader of readers) await reader.end({ timeoutMs: 8_000 });
      for (const answer of await Promise.all(polls)) expect(answer.status).toBe(204);
      idle.destroy();
      expect(await server.ended()).toEqual({ code: 0, signal: null });
      expect(performance.now() - begun).toBeLessThan(9_000);
      // All data is in the files themselves.
      const left = await readdir(path.join(dataDirectory, "shards"));
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
    // The registry and the directory are in memory, too, once they know of the stream.
    await eventually(
      "three objects in memory",
      async () =>
        (await metric(server, "loaded_streams")).get("durable_streams_loaded_streams") === 3,
    );
    for (const own of ["/health", "/metrics"]) {
      expect((await request(server.url, own, { method: "POST" })).status).toBe(404);
      expect((await request(server.url, own, { method: "HEAD" })).body.length).toBe(0);
    }
  });

  test("the data directory is created where the setting says", async () => {
    const dataDirectory = path.join(await temporaryDirectory(), "deep", "er");
    await serve({}, { dataDirectory });
    expect(existsSync(path.join(dataDirectory, "shards"))).toBe(true);
  });
});
