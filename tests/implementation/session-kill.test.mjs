// Kills the server while envelopes are on their way to sessions.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const rounds = Number(process.env.SESSION_KILLS || 20);
const sessionCount = 6;
const streamCount = 3;
const json = "application/json";

// By calls of the streams, and on Cloudflare through the fan-out queue, too.
const ways = shell === "worker" ? [false, true] : [false];

test.each(ways)(
  `no envelope is lost or doubled over ${rounds} kills during deliveries (${shell}, queue: %s)`,
  async (queue) => {
    const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-session-kill-"));
    const start = () =>
      startServer({
        dataDirectory,
        cold: "directory",
        queue,
        env: {
          SEGMENT_MAX_MESSAGES: "50",
          FANOUT_QUEUE_THRESHOLD: String(queue ? sessionCount - 1 : sessionCount),
        },
      });
    let server = await start();
    onTestFinished(async () => {
      await server.kill();
      await rm(dataDirectory, { recursive: true, force: true });
    });
    const ask = (method, path, body) =>
      request(server.url, path, { method, body: body && JSON.stringify(body) });
    const names = Array.from({ length: streamCount }, (_, index) => `source-${index}`);
    for (const name of names) {
      expect((await new Stream(server.url, name, json).put()).status).toBe(201);
    }
    const sessions = [];
    for (let count = 0; count < sessionCount; count++) {
      const { sessionId } = (await ask("POST", "/v1/sessions")).json();
      for (const streamId of names) {
        const answer = await ask("POST", "/v1/subscriptions", { sessionId, streamId });
        expect(answer.status).toBe(204);
      }
      sessions.push(sessionId);
    }
    let value = 0;
    let acknowledged = 0;
    for (let round = 0; round < rounds; round++) {
      let isRunning = true;
      const killAt = acknowledged + 5 + Math.floor(Math.random() * 40);
      const write = async (name) => {
        const stream = new Stream(server.url, name, json);
        while (isRunning) {
          const answer = await stream.append(String(value++)).catch(() => undefined);
          if (answer?.status === 204) acknowledged++;
        }
      };
      const writers = names.map(write);
      while (acknowledged < killAt) await sleep(5);
      await server.kill();
      isRunning = false;
      await Promise.all(writers);
      server = await start();
    }
    // Each session has exactly what its streams have, in their order.
    const contents = new Map();
    let appends = 0;
    for (const name of names) {
      const stream = new Stream(server.url, name, json);
      await stream.append('"last"');
      const messages = await stream.messages();
      appends += messages.length;
      contents.set(name, messages);
    }
    let envelopes = 0;
    for (const session of sessions) {
      const stream = new Stream(server.url, `subscriptions/${session}`, json);
      const deadline = Date.now() + 90_000;
      let found = await stream.messages();
      while (found.length < appends && Date.now() < deadline) {
        await sleep(250);
        found = await stream.messages();
      }
      for (const name of names) {
        const own = found.filter((each) => each.stream === name);
        expect(own.map((each) => each.payload)).toEqual(contents.get(name));
      }
      envelopes += found.length;
    }
    const brought = (await server.queue?.counts())?.brought ?? 0;
    expect(brought > 0).toBe(queue);
    expect(acknowledged).toBeGreaterThan(rounds);
    expect(envelopes).toBe(appends * sessionCount);
    console.log(
      `sessions (queue: ${queue}): ${rounds} kills, ${acknowledged} appends acknowledged, ${appends} stored, ${envelopes} envelopes in ${sessionCount} sessions`,
    );
  },
  120_000 + rounds * 6_000,
);
