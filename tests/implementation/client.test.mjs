// The published clients, unchanged, against the server.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import {
  DurableStream,
  DurableStreamError,
  FetchError,
  IdempotentProducer,
  StaleEpochError,
  stream,
} from "@durable-streams/client";
import { MaterializedState } from "@durable-streams/state";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { eventually } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";
import { foreignUrl, startOrUse } from "../harness/target.mjs";

const range = (count) => Array.from({ length: count }, (_, index) => index);

describe("@durable-streams/client", () => {
  let server;
  const freshUrl = () => `${server.url}/v1/stream/${freshName("client")}`;
  const create = (options) =>
    DurableStream.create({ url: freshUrl(), warnOnHttp: false, ...options });

  beforeAll(async () => {
    server = await startOrUse({ env: { LONG_POLL_TIMEOUT_MS: 1_000 } });
  });
  afterAll(() => server?.stop());

  test("creates, appends, reads, describes, closes and deletes", async () => {
    const handle = await create({ contentType: "text/plain", ttlSeconds: 3600 });
    await handle.append("one ");
    await handle.append("two");
    expect(await (await handle.stream({ live: false })).text()).toBe("one two");
    const head = await handle.head();
    expect(head).toMatchObject({ exists: true, contentType: "text/plain", streamClosed: false });
    expect((await handle.close({ body: " end" })).finalOffset > head.offset).toBe(true);
    const whole = await handle.stream({ live: false });
    expect(await whole.text()).toBe("one two end");
    expect(whole.streamClosed).toBe(true);
    await handle.delete();
    await expect(stream({ url: handle.url, live: false, warnOnHttp: false })).rejects.toSatisfy(
      (error) => error instanceof DurableStreamError || error instanceof FetchError,
    );
  });

  test("reads back JSON and bytes", async () => {
    const json = await create({ contentType: "application/json" });
    await Promise.all(range(50).map((index) => json.append(JSON.stringify({ index }))));
    expect(await (await json.stream({ live: false })).json()).toEqual(
      range(50).map((index) => ({ index })),
    );
    const binary = await create({ contentType: "application/octet-stream" });
    const bytes = Uint8Array.from(range(256));
    await binary.append(bytes);
    await binary.append(bytes);
    expect(await (await binary.stream({ live: false })).body()).toEqual(
      Uint8Array.from([...bytes, ...bytes]),
    );
  });

  test("appends fifteen messages of a megabyte at once", async () => {
    const handle = await create({ contentType: "application/json" });
    const filling = "x".repeat(1_000_000);
    await Promise.all(range(15).map((index) => handle.append(JSON.stringify({ index, filling }))));
    const messages = await (await handle.stream({ live: false })).json();
    expect(messages.map((message) => message.index)).toEqual(range(15));
    expect(messages.every((message) => message.filling === filling)).toBe(true);
  });

  test.each(["sse", "long-poll"])("keeps every space of streamed tokens (%s)", async (live) => {
    const handle = await create({ contentType: "text/plain" });
    const response = await handle.stream({ live, offset: "now" });
    let text = "";
    response.subscribeText((chunk) => {
      text += chunk.text;
    });
    const tokens = ["Hello", " world", "!", " ", " Two", "  spaces", " \n", " new line"];
    for (const token of tokens) await handle.append(token);
    await eventually("all tokens", () => text.length >= tokens.join("").length);
    expect(text).toBe(tokens.join(""));
    response.cancel();
  });

  test("decodes a binary stream over SSE", async () => {
    const handle = await create({ contentType: "application/octet-stream" });
    const response = await handle.stream({ live: "sse" });
    const seen = [];
    response.subscribeBytes((chunk) => {
      seen.push(...chunk.data);
    });
    const bytes = Uint8Array.from(range(256));
    await handle.append(bytes);
    await handle.append(bytes);
    await eventually("512 bytes", () => seen.length >= 512);
    expect(seen).toEqual([...bytes, ...bytes]);
    response.cancel();
  });

  test.each(["sse", "long-poll"])("follows a stream over %s until it is closed", async (live) => {
    const handle = await create({ contentType: "application/json" });
    await handle.append("0");
    const response = await handle.stream({ live });
    const seen = [];
    let ended = false;
    response.subscribeJson((batch) => {
      seen.push(...batch.items);
      ended ||= batch.streamClosed;
    });
    for (const index of range(30).slice(1)) await handle.append(String(index));
    await handle.close({ body: "30" });
    await eventually("the end of the stream", () => ended);
    expect(seen).toEqual(range(31));
    await response.closed;
  });

  test("an idempotent producer delivers everything once, in order", async () => {
    const handle = await create({ contentType: "application/json" });
    const failures = [];
    const producer = new IdempotentProducer(handle, "producer", {
      maxInFlight: 5,
      maxBatchBytes: 200,
      lingerMs: 1,
      onError: (error) => failures.push(error),
    });
    for (const index of range(500)) producer.append(JSON.stringify(index));
    await producer.flush();
    expect(failures).toEqual([]);
    expect(await (await handle.stream({ live: false })).json()).toEqual(range(500));
  });

  test("a producer whose answers are lost sends again, and nothing is stored twice", async () => {
    const handle = await create({ contentType: "application/json" });
    let repeated = 0;
    // Simulates a network that loses answers. Each request reaches the server twice, and only the
    // second answer arrives.
    const lossy = async (...request) => {
      await fetch(...request);
      repeated += 1;
      return fetch(...request);
    };
    const failures = [];
    const producer = new IdempotentProducer(handle, "lossy", {
      fetch: lossy,
      maxBatchBytes: 40,
      lingerMs: 1,
      onError: (error) => failures.push(error),
    });
    for (const index of range(60)) producer.append(JSON.stringify(index));
    await producer.flush();
    expect(failures).toEqual([]);
    expect(repeated).toBeGreaterThan(1);
    expect(await (await handle.stream({ live: false })).json()).toEqual(range(60));
  });

  test("a producer that claims its id fences the older one", async () => {
    const handle = await create({ contentType: "application/json" });
    const failures = [];
    const older = new IdempotentProducer(handle, "shared", {
      onError: (error) => failures.push(error),
    });
    older.append("1");
    await older.flush();
    const newer = new IdempotentProducer(handle, "shared", { epoch: 1 });
    newer.append("2");
    await newer.flush();
    older.append("3");
    await older.flush().catch(() => {});
    expect(failures.some((error) => error instanceof StaleEpochError)).toBe(true);
    const claiming = new IdempotentProducer(handle, "shared", { autoClaim: true });
    claiming.append("4");
    await claiming.flush();
    expect(await (await handle.stream({ live: false })).json()).toEqual([1, 2, 4]);
  });

  test("the events of @durable-streams/state become its state", async () => {
    const handle = await create({ contentType: "application/json" });
    const changes = [
      { type: "config", key: "theme", value: "dark", headers: { operation: "insert" } },
      { type: "config", key: "language", value: "en", headers: { operation: "insert" } },
      { type: "config", key: "theme", value: "light", headers: { operation: "update" } },
      { type: "config", key: "language", headers: { operation: "delete" } },
    ];
    for (const change of changes) await handle.append(JSON.stringify(change));
    const state = new MaterializedState();
    for await (const change of (await handle.stream({ live: false })).jsonStream())
      state.apply(change);
    expect(state.get("config", "theme")).toBe("light");
    expect(state.getType("config").size).toBe(1);
  });
});

describe.skipIf(foreignUrl)("@durable-streams/client over a restart of the server", () => {
  test.each(["sse", "long-poll"])(
    "a live read over %s continues without loss or repetition",
    async (live) => {
      const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-restart-"));
      let server = await startServer({ dataDirectory, env: { LONG_POLL_TIMEOUT_MS: 1_000 } });
      try {
        const handle = await DurableStream.create({
          url: `${server.url}/v1/stream/${freshName("restart")}`,
          contentType: "application/json",
          warnOnHttp: false,
        });
        const seen = [];
        let offset = "-1";
        let response;
        // When a connection breaks, an SSE session of this client ends with an error. Its user
        // resumes from the last offset.
        const following = (async () => {
          for (let broken = true; broken;) {
            response = await handle.stream({
              live,
              offset,
              backoffOptions: {
                initialDelay: 50,
                maxDelay: 200,
                multiplier: 1.5,
                maxRetries: Infinity,
              },
            });
            response.subscribeJson((batch) => {
              seen.push(...batch.items);
              offset = batch.offset;
            });
            broken = await response.closed.then(
              () => false,
              () => true,
            );
          }
        })();
        let next = 0;
        for (let life = 0; life < 3; life += 1) {
          for (let count = 0; count < 10; count += 1, next += 1) await handle.append(String(next));
          await eventually("the appends of this life", () => seen.length >= next);
          await server.kill();
          server = await startServer({
            dataDirectory,
            port: server.port,
            env: { LONG_POLL_TIMEOUT_MS: 1_000 },
          });
        }
        await handle.append(String(next));
        await eventually("the append after the last restart", () => seen.length > next);
        expect(seen).toEqual(range(next + 1));
        response.cancel();
        await following;
      } finally {
        await server.stop();
        await rm(dataDirectory, { recursive: true, force: true });
      }
    },
  );
});
