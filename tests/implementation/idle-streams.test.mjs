// The server for one machine drops the state of a stream that nobody uses.

import { describe, expect, onTestFinished, test } from "vitest";
import { eventually, request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";

async function serve(idleMs) {
  const server = await startServer({ env: { STREAM_IDLE_MS: idleMs } });
  onTestFinished(() => server.stop());
  return server;
}

async function loadedStreams({ url }) {
  const { text } = await request(url, "/metrics");
  return Number(text.match(/^durable_streams_loaded_streams (\d+)$/m)[1]);
}

function untilNoneIsLoaded(server) {
  return eventually("no stream in memory", async () => (await loadedStreams(server)) === 0);
}

describe.runIf(shell === "server")("idle streams", () => {
  test("leave memory, and go on where they were", async () => {
    const server = await serve(200);
    const streams = await Promise.all(
      Array.from({ length: 20 }, () => Stream.create(server.url, { body: "one," })),
    );
    for (const stream of streams) await stream.append("two,", producer("writer", 3, 0));
    expect(await loadedStreams(server)).toBeGreaterThanOrEqual(20);
    await untilNoneIsLoaded(server);
    for (const stream of streams) {
      const again = await stream.append("two,", producer("writer", 3, 0));
      expect(again.status, "the duplicate is recognised").toBe(204);
      expect((await stream.append("three", producer("writer", 3, 1))).status).toBe(200);
      expect((await stream.append("four", producer("writer", 2, 0))).status).toBe(403);
      expect((await stream.read("-1")).text).toBe("one,two,three");
    }
    await untilNoneIsLoaded(server);
  });

  test("keep their live readers", async () => {
    const server = await serve(200);
    const stream = await Stream.create(server.url);
    const reader = await stream.events(stream.start);
    onTestFinished(() => reader.close());
    await reader.upToDate();
    const poll = stream.longPoll(stream.start);
    await eventually("both readers", async () => {
      const { text } = await request(server.url, "/metrics");
      return /^durable_streams_readers 2$/m.test(text);
    });
    await untilNoneIsLoaded(server);
    await stream.append("after the pause");
    expect((await poll).text).toBe("after the pause");
    expect((await reader.next({ type: "data" })).data).toBe("after the pause");
    expect(reader.ended).toBe(false);
  });

  test("are dropped only after that time without a request", async () => {
    const server = await serve(1_000);
    const stream = await Stream.create(server.url);
    const { instance } = await stream.statistics();
    for (let used = 0; used < 10; used += 1) {
      await sleep(300);
      expect((await stream.statistics()).instance, "the stream is in use").toBe(instance);
    }
    await untilNoneIsLoaded(server);
    expect((await stream.statistics()).instance).not.toBe(instance);
  });
});
