// Streams with many sessions tell them through the fan-out queue (docs/sessions.md). Only
// Cloudflare has it.

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const threshold = 3;
const env = {
  FANOUT_QUEUE_THRESHOLD: threshold,
  SEGMENT_MAX_MESSAGES: 50,
  RETRY_MIN_MS: 100,
  RETRY_MAX_MS: 2_000,
};
const json = "application/json";

describe.skipIf(shell === "server")("the fan-out queue", () => {
  let server;

  beforeAll(async () => {
    server = await startServer({ queue: true, cold: true, env });
  });
  afterAll(() => server?.stop());

  const ask = (method, path, body) =>
    request(server.url, path, { method, body: body && JSON.stringify(body) });

  async function following(stream, count) {
    const sessions = [];
    for (let each = 0; each < count; each++) {
      const { sessionId } = (await ask("POST", "/v1/sessions")).json();
      const body = { sessionId, streamId: stream.name };
      expect((await ask("POST", "/v1/subscriptions", body)).status).toBe(204);
      sessions.push(sessionId);
    }
    return sessions;
  }

  const streamOf = (session) => new Stream(server.url, `subscriptions/${session}`, json);

  /** Waits until a session has as many envelopes as the stream has messages, and compares them. */
  async function expectAll(sessions, stream, timeoutMs = 30_000) {
    const messages = await stream.messages();
    const deadline = Date.now() + timeoutMs;
    for (const session of sessions) {
      let found = await streamOf(session).messages();
      while (found.length < messages.length && Date.now() < deadline) {
        await sleep(50);
        found = await streamOf(session).messages();
      }
      expect(found.map(({ payload }) => payload)).toEqual(messages);
    }
  }

  /** Waits until the queue has taken this many messages, and has none left. */
  async function untilIdle(messages = 0) {
    const deadline = Date.now() + 30_000;
    for (;;) {
      const counts = await server.queue.counts();
      if (counts.messages >= messages && counts.waiting === 0) return counts;
      if (Date.now() > deadline) throw new Error(`${JSON.stringify(counts)} are left`);
      await sleep(20);
    }
  }

  test("a stream calls a few sessions itself, and lets the queue call many", async () => {
    const stream = await Stream.create(server.url, { contentType: json });
    const few = await following(stream, threshold);
    const before = await server.queue.counts();
    await stream.append("1");
    await expectAll(few, stream);
    expect((await server.queue.counts()).messages).toBe(before.messages);

    const more = await following(stream, 250 - threshold);
    await stream.append("2");
    const counts = await untilIdle(before.messages + 250);
    expect(counts.messages - before.messages).toBe(250);
    expect(counts.batches - before.batches).toBe(3);
    expect(counts.dead).toBe(0);
    for (const session of few) {
      const found = (await streamOf(session).messages()).map(({ payload }) => payload);
      expect(found).toEqual([1, 2]);
    }
    for (const session of more) {
      const found = (await streamOf(session).messages()).map(({ payload }) => payload);
      expect(found).toEqual([2]);
    }
  });

  test("envelopes arrive once and in order, whatever the queue does", async () => {
    const stream = await Stream.create(server.url, { contentType: json });
    const sessions = await following(stream, threshold + 3);
    await server.queue.misbehave({
      refuse: 0.2,
      lie: 0.2,
      repeat: 0.3,
      forget: 0.3,
      shuffles: true,
    });
    onTestFinished(() => server.queue.misbehave({}));
    for (let number = 0; number < 200; number++) {
      expect((await stream.append(String(number))).status).toBe(204);
      if (number % 20 === 0) await sleep(50);
    }
    await expectAll(sessions, stream);
  });

  test("sessions that end during a delivery leave nothing behind", async () => {
    const stream = await Stream.create(server.url, { contentType: json });
    const sessions = await following(stream, threshold + 2);
    await server.queue.misbehave({ holds: true });
    onTestFinished(() => server.queue.misbehave({}));
    await stream.append("1");
    const [first, ...others] = sessions;
    expect((await ask("DELETE", `/v1/sessions/${first}`)).status).toBe(204);
    await server.queue.misbehave({});
    await untilIdle();
    await expectAll(others, stream);
    expect((await stream.request("DELETE")).status).toBe(204);
    const deadline = Date.now() + 20_000;
    for (const session of others) {
      for (;;) {
        const listed = (await ask("GET", `/v1/subscriptions/${session}`)).json();
        if (listed.length === 0) break;
        if (Date.now() > deadline) throw new Error(`${session} still follows ${listed}`);
        await sleep(50);
      }
    }
  });
});
