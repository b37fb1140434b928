// A quiet stream with readers must cost nothing: its object sleeps while they stay connected. On
// one machine nothing is billed, but the number of open files is bounded (one-machine.test.mjs).

import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const readerCount = 100;
// The runtime hibernates an object ten seconds after its last event.
const idleMs = 20_000;

let server;

beforeAll(async () => {
  if (shell === "worker")
    server = await startServer({ env: { SSE_HEARTBEAT_MS: 3_000, SSE_MAX_AGE_MS: 120_000 } });
});
afterAll(() => server?.stop());

test.runIf(shell === "worker")(
  "with 100 idle SSE readers the object hibernates, and the next append reaches all",
  async () => {
    const stream = await Stream.create(server.url, {
      contentType: "application/json",
      body: "[0]",
    });
    const readers = await Promise.all(
      Array.from({ length: readerCount }, () => stream.events("-1")),
    );
    await Promise.all(readers.map((reader) => reader.upToDate()));
    const before = await eventually("all lines", async () => {
      const statistics = await stream.statistics();
      return statistics.subscribers === readerCount && statistics;
    });

    for (let round = 1; round <= 2; round += 1) {
      await sleep(idleMs);
      const appended = await stream.append(String(round));
      expect(appended.status).toBe(204);
      await Promise.all(
        readers.map((reader) =>
          reader.control(({ streamNextOffset }) => streamNextOffset === appended.offset),
        ),
      );
      const after = await stream.statistics();
      expect(after.instance).not.toBe(before.instance);
      expect(after.subscribers).toBe(readerCount);
      before.instance = after.instance;
    }

    for (const reader of readers) {
      expect(reader.ended).toBe(false);
      expect(reader.messages).toEqual([0, 1, 2]);
      expect(reader.comments.length).toBeGreaterThan(3);
      reader.close();
    }
  },
  180_000,
);

test.runIf(shell === "worker")(
  "a long-poll after the sleep is answered with the next append",
  async () => {
    const stream = await Stream.create(server.url, { body: "a" });
    const { instance } = await stream.statistics();
    await sleep(idleMs);
    const waiting = stream.longPoll(stream.start);
    await sleep(200);
    await stream.append("b");
    expect((await waiting).text).toBe("b");
    expect((await stream.statistics()).instance).not.toBe(instance);
  },
);
