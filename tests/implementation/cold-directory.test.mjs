// The cold tier of the server for one machine: its default directory, and how the server works
// without it.

import { existsSync } from "node:fs";
import { chmod, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { eventually, request, sleep } from "../harness/http.mjs";
import { startOneMachine } from "../harness/one-machine.mjs";
import { repositoryRoot, shell, startServer } from "../harness/server.mjs";
import { untilStored } from "../harness/stored.mjs";
import { freshName, Stream } from "../harness/stream.mjs";

const env = {
  SEGMENT_MAX_MESSAGES: 3,
  COLLECT_GRACE_MS: 1_000,
  RETRY_MIN_MS: 50,
  RETRY_MAX_MS: 300,
  PUT_TIMEOUT_MS: 2_000,
  REPLY_TIMEOUT_MS: 2_000,
};
const patience = { timeoutMs: 60_000 };
const range = (count) => Array.from({ length: count }, (_, index) => index);

async function serve(options = {}) {
  const server = await startServer({
    cold: "directory",
    ...options,
    env: { ...env, ...options.env },
  });
  onTestFinished(() => server.stop());
  return server;
}

async function scratch() {
  const directory = await mkdtemp(path.join(tmpdir(), "durable-streams-cold-"));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

async function metric({ url }, name) {
  const line = (await request(url, "/metrics")).text
    .split("\n")
    .find((line) => line.startsWith(`durable_streams_${name} `));
  return Number(line.slice(line.lastIndexOf(" ") + 1));
}

/** A stream of ten messages, the first nine of which are cold. */
async function filled(server, stream = new Stream(server.url, freshName(), "application/json")) {
  expect((await stream.put()).status).toBe(201);
  const offsets = [];
  for (const index of range(10)) {
    offsets.push((await stream.append(String(index))).offset);
    // Waits because the next segment would grow until this one is stored.
    if (index % 3 === 2) await untilStored(server, stream, Math.ceil(index / 3));
  }
  return { stream, offsets };
}

function expectUnavailable(answer) {
  expect(answer.status).toBe(503);
  expect(Number(answer.headers["retry-after"])).toBeGreaterThan(0);
  expect(answer.headers["cache-control"]).toMatch(/\bno-store\b/);
}

describe.runIf(shell === "server")("the directory", () => {
  test("has the segments of a stream of any name, and nothing after its deletion", async () => {
    // A put that takes longer counts as failed.
    const server = await serve({ env: { PUT_TIMEOUT_MS: 60_000 } });
    for (const name of ["a", "x".repeat(1_024), "%F0%9F%98%80", "a/b/c"]) {
      const { stream } = await filled(server, new Stream(server.url, name, "application/json"));
      expect(await stream.messages()).toEqual(range(10));
      expect((await stream.delete()).status).toBe(204);
      await eventually(
        "no object",
        async () => (await server.coldTier.objectsOf(name)).length === 0,
        patience,
      );
    }
    // Only the registry's objects are left, and no empty directories.
    const directories = new Set(
      (await server.coldTier.objects()).map(({ key }) => key.split("/")[0]),
    );
    expect([...directories].map((each) => Buffer.from(each, "base64url").toString())).toEqual([
      "__registry__",
    ]);
    for (const name of [
      "cold_puts_total",
      "cold_put_bytes_total",
      "cold_collected_total",
      "cold_fetches_total",
      "cold_fetched_bytes_total",
    ]) {
      expect(await metric(server, name), name).toBeGreaterThan(0);
    }
    expect(await metric(server, "cold_put_failures_total")).toBe(0);
  });

  // The messages begin here (`machine/src/segment/mod.rs`).
  const bodyOf = (bytes) => 28 + bytes.readUInt32LE(24) + 4;
  const damages = {
    "a changed byte": async (tier, key) => {
      const bytes = await tier.object(key);
      bytes[bodyOf(bytes) + 4] ^= 1;
      await tier.replace(key, bytes);
    },
    "an object that is cut": async (tier, key) => {
      const bytes = await tier.object(key);
      await tier.replace(key, bytes.subarray(0, bodyOf(bytes) + 6));
    },
    "an object that ends before what is read": async (tier, key) =>
      tier.replace(key, (await tier.object(key)).subarray(0, 10)),
    "no object": (tier, key) => tier.remove(key),
  };

  test.each(Object.keys(damages))(
    "%s is reported with the number of the segment, and affects nothing else",
    async (damage) => {
      const server = await serve();
      const { stream } = await filled(server);
      const rows = await server.coldTier.segmentsOf(stream);
      await damages[damage](server.coldTier, rows[1].r2_key);
      for (const live of ["", "&live=long-poll", "&live=sse"]) {
        const broken = await stream.get(`?offset=${rows[1].start_offset}${live}`);
        expect(broken.status, live).toBe(500);
        expect(broken.json().error.message).toMatch(/segment 1\b/);
        expect(broken.headers["cache-control"]).toMatch(/no-store/);
      }
      expect((await stream.read(rows[2].start_offset)).json()).toEqual([6, 7, 8, 9]);
      expect((await stream.append("10")).status).toBe(204);
    },
  );

  const losses = {
    "is not there": (directory) => async () => {
      await rename(directory, `${directory}.away`);
      return () => rename(`${directory}.away`, directory);
    },
    "is something else": (directory) => async () => {
      await rename(directory, `${directory}.away`);
      await writeFile(directory, "a file");
      return async () => {
        await rm(directory);
        await rename(`${directory}.away`, directory);
      };
    },
    "cannot be written": (directory) => async () => {
      await chmod(directory, 0o500);
      return () => chmod(directory, 0o700);
    },
  };

  // The superuser ignores the permissions of a directory.
  const possible = Object.keys(losses).filter(
    (loss) => loss !== "cannot be written" || process.getuid?.() !== 0,
  );

  test.each(possible)(
    "that %s delays only reads of its data, and nothing is lost",
    async (loss) => {
      const server = await serve();
      const { stream, offsets } = await filled(server);
      const directory = path.join(server.dataDirectory, "cold");
      const restore = await losses[loss](directory)();
      for (const index of range(20))
        expect((await stream.append(String(index + 10))).status).toBe(204);
      expect((await stream.read(offsets[8])).json()).toEqual(range(21).map((index) => index + 9));
      expect((await (await Stream.create(server.url)).append("x")).status).toBe(204);
      if (loss !== "cannot be written") {
        for (const live of ["", "&live=long-poll", "&live=sse"])
          expectUnavailable(await stream.get(`?offset=-1${live}`));
      }
      await eventually(
        "failed puts",
        async () => (await metric(server, "cold_put_failures_total")) > 1,
        patience,
      );
      expect(existsSync(directory)).toBe(loss !== "is not there");
      await restore();
      expect(await stream.messages()).toEqual(range(30));
      expect((await stream.close()).status).toBe(204);
      await eventually(
        "all of it in the directory",
        async () =>
          (await server.coldTier.segmentsOf(stream)).reduce((sum, row) => sum + row.messages, 0) ===
          30,
        patience,
      );
      await untilStored(server, stream, (await server.coldTier.segmentsOf(stream)).length);
      expect(await stream.messages()).toEqual(range(30));
    },
  );

  test("is used by streams whose files are closed again and again", async () => {
    const server = await serve({
      env: { OPEN_STREAMS_MAX: 2, STORAGE_THREADS: 3, PUT_TIMEOUT_MS: 60_000 },
    });
    const streams = await Promise.all(
      range(20).map(() => Stream.create(server.url, { contentType: "application/json" })),
    );
    for (const index of range(10))
      await Promise.all(
        streams.map(async (stream) =>
          expect((await stream.append(String(index))).status).toBe(204),
        ),
      );
    for (const stream of streams) {
      expect((await stream.close()).status).toBe(204);
      await eventually(
        "all stored",
        async () =>
          (await server.coldTier.segmentsOf(stream)).reduce((sum, row) => sum + row.messages, 0) ===
          10,
        patience,
      );
      expect(await stream.messages()).toEqual(range(10));
    }
  });

  test("does not exist with --cold none, and no segment is sealed", async () => {
    const server = await serve({ env: { COLD: "none" } });
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    for (const index of range(10)) expect((await stream.append(String(index))).status).toBe(204);
    expect((await stream.head()).offset).toBe(`${"0".repeat(16)}_${"10".padStart(16, "0")}`);
    expect(existsSync(path.join(server.dataDirectory, "cold"))).toBe(false);
  });

  test.each(["gs://bucket", "s3://"])(
    "must be valid: with %s the server does not start",
    async (cold) => {
      await expect(startServer({ env: { COLD: cold, AWS_REGION: "auto" } })).rejects.toThrow(
        /error: COLD must /,
      );
    },
  );

  test.skipIf(spawnSync("strace", ["-V"]).error)(
    "has an object and its parent directories on disk before the object counts as stored",
    async () => {
      const directory = await scratch();
      const [trace, binary] = [path.join(directory, "trace"), path.join(directory, "traced")];
      const program = path.join(repositoryRoot, "target/server-test/durable-streams");
      await writeFile(
        binary,
        `#!/bin/sh\nexec strace -D -f -y -qq -s 300 -e trace=fsync,fdatasync,link,linkat,unlink,unlinkat -o '${trace}' '${program}' "$@"\n`,
        { mode: 0o755 },
      );
      const server = await startOneMachine({
        binary,
        dataDirectory: path.join(directory, "data"),
        env,
        cold: "directory",
      });
      const { stream } = await filled(server);
      await stream.delete();
      await eventually(
        "no object",
        async () => (await server.coldTier.objectsOf(stream.name)).length === 0,
        patience,
      );
      await server.stop();
      const calls = (await readFile(trace, "utf8")).split("\n");
      const own = path.join(directory, "data/cold", Buffer.from(stream.name).toString("base64url"));
      const at = (pattern, from = 0) =>
        calls.findIndex((call, index) => index >= from && pattern.test(call.replace(own, "OWN")));
      const written = at(/fsync\(\d+<OWN\/[0-9a-f]+\/0{16}-1#1>/);
      const linked = at(/link.*OWN\/[0-9a-f]+\/0{16}-1#1.*/, written);
      const entered = at(/fsync\(\d+<OWN\/[0-9a-f]+>/, linked);
      const above = at(/fsync\(\d+<OWN>/);
      expect(written, calls.join("\n")).toBeGreaterThan(-1);
      expect(above).toBeGreaterThan(-1);
      expect(linked).toBeGreaterThan(written);
      expect(entered).toBeGreaterThan(linked);
      const deleted = at(/unlink.*OWN\/[0-9a-f]+\/0{16}-1"/, entered);
      expect(deleted).toBeGreaterThan(entered);
      expect(at(/fsync\(\d+<OWN\/[0-9a-f]+>/, deleted)).toBeGreaterThan(deleted);
    },
  );
});

describe.runIf(shell === "server")("an S3", () => {
  test("that does not answer does not block the server, or its end", async () => {
    const server = await startServer({ cold: "s3", env: { ...env, PUT_TIMEOUT_MS: 600_000 } });
    const { stream, offsets } = await filled(server);
    await server.coldTier.disturb({ put: { delayMs: 10_000_000 }, get: { fail: 1 } });
    for (const index of range(10))
      expect((await stream.append(String(index + 10))).status).toBe(204);
    expectUnavailable(await stream.get());
    expect((await stream.read(offsets[8])).json()).toEqual(range(11).map((index) => index + 9));
    await sleep(200);
    const begun = performance.now();
    expect(await server.stop()).toEqual({ code: 0, signal: null });
    expect(performance.now() - begun).toBeLessThan(9_000);
  });

  test("that fails in the middle of a page cuts the client off, which reads on", async () => {
    const server = await serve({
      cold: "s3",
      env: { MAX_CHUNK_BYTES: 1 << 20, INDEX_STEP_BYTES: 1_000 },
    });
    const stream = await Stream.create(server.url, { contentType: "application/octet-stream" });
    const bodies = range(6).map((index) => Buffer.alloc(50_000, index));
    for (const body of bodies) expect((await stream.append(body)).status).toBe(204);
    const rows = await untilStored(server, stream, 2);
    await server.coldTier.remove(rows[1].r2_key);
    await expect(stream.get()).rejects.toThrow();
    expect((await stream.read(rows[1].start_offset)).status).toBe(500);
  });
});
