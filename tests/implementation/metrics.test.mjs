// The events that a Worker writes to Analytics Engine, and what the admin API asks of it.

import { describe, expect, onTestFinished, test } from "vitest";
import { Analytics } from "../harness/analytics.mjs";
import { eventually, request } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { freshName, producer, Stream } from "../harness/stream.mjs";

const token = "secret of operators";

/** @param {import("../harness/server.mjs").ServerOptions} [options] */
async function serve({ env, ...options } = {}) {
  const analytics = await Analytics.start();
  onTestFinished(() => analytics.stop());
  const server = await startServer({
    metrics: analytics,
    env: { ADMIN_TOKEN: token, ...env },
    ...options,
  });
  onTestFinished(() => server.stop());
  return { analytics, server, url: server.url };
}

/** Waits until a stream has this many events, and returns them by their kinds. */
async function eventsOf(analytics, stream, count) {
  await eventually(`there are ${count} events`, async () => analytics.of(stream).length >= count);
  const events = analytics.of(stream);
  expect(events.map(({ event }) => event)).toHaveLength(count);
  for (const { index, schema, weight, duration } of events) {
    expect({ index, schema, weight }).toEqual({ index: stream, schema: "1", weight: 1 });
    expect(duration).toBeGreaterThanOrEqual(0);
  }
  return events;
}

const told = ({ event, calls, messages, bytes, status }) =>
  [event, calls, messages, bytes, status].join(" ");

describe.runIf(shell === "worker")("events", () => {
  test("each operation is the data points that the documentation counts", async () => {
    const { analytics, url } = await serve();
    const stream = await Stream.create(url, { contentType: "application/json" });
    const kinds = async (count) => (await eventsOf(analytics, stream.name, count)).map(told);
    expect(await kinds(1)).toEqual(["create 1 0 0 0"]);
    await stream.append('[{"a":1},22]');
    expect((await kinds(2)).at(-1)).toBe("append 1 2 9 0");
    expect((await stream.get()).status).toBe(200);
    expect((await kinds(3)).at(-1)).toBe("read 1 2 0 0");
    expect((await stream.append("{")).status).toBe(400);
    expect((await kinds(4)).at(-1)).toBe("refuse 1 0 0 400");
    await stream.head();
    await request(url, `/admin/api/streams/${stream.name}/detail`, {
      headers: { Authorization: `Bearer ${token}` },
    });
    await stream.close();
    expect((await kinds(5)).at(-1)).toBe("close 1 0 0 0");
    expect((await stream.append("1")).status).toBe(409);
    expect((await kinds(6)).at(-1)).toBe("refuse 1 0 0 409");
    await stream.delete();
    expect((await kinds(7)).at(-1)).toBe("delete 1 0 0 0");
  });

  test("a retry of a producer is no append", async () => {
    const { analytics, url } = await serve();
    const stream = await Stream.create(url, { contentType: "text/plain" });
    const headers = producer("p", 0, 0);
    expect((await stream.append("abc", headers)).status).toBe(200);
    expect((await stream.append("abc", headers)).status).toBe(204);
    await stream.append("de");
    const events = await eventsOf(analytics, stream.name, 3);
    // Points may arrive in another order.
    const appends = events.map(told).filter((each) => each.startsWith("append"));
    expect(appends.sort()).toEqual(["append 1 1 2 0", "append 1 1 3 0"]);
  });

  test("a live read begins and ends, and an end by itself is an expiry", async () => {
    const { analytics, url } = await serve({ env: { LONG_POLL_TIMEOUT_MS: 300 } });
    const stream = await Stream.create(url, { headers: { "Stream-TTL": "3" } });
    expect((await stream.longPoll(stream.start)).status).toBe(204);
    const seen = (kind) => analytics.of(stream.name).filter(({ event }) => event === kind).length;
    await eventually("it has left", async () => seen("live-end") === 1);
    await eventually("it has expired", async () => seen("expire") === 1);
    expect([seen("live-start"), seen("read"), seen("delete")]).toEqual([1, 0, 0]);
  });

  test("segments are sealed and stored", async () => {
    const { analytics, url } = await serve({ cold: true, env: { SEGMENT_MAX_MESSAGES: 2 } });
    const stream = await Stream.create(url, { contentType: "application/json" });
    await stream.append("[1,22]");
    await eventually("it is stored", async () =>
      analytics.of(stream.name).some(({ event }) => event === "store"),
    );
    const events = await eventsOf(analytics, stream.name, 4);
    expect(events.map(told).sort()).toEqual([
      "append 1 2 3 0",
      "create 1 0 0 0",
      "seal 0 2 3 0",
      "store 0 2 3 0",
    ]);
  });

  test("appends that share a commit are one point, and nothing is lost", async () => {
    const { analytics, url } = await serve();
    const stream = await Stream.create(url, { contentType: "text/plain" });
    await Promise.all(Array.from({ length: 200 }, () => stream.append("xyz")));
    const sums = () => {
      const appends = analytics.of(stream.name).filter(({ event }) => event === "append");
      const sum = (of) => appends.reduce((total, each) => total + of(each), 0);
      return [sum((each) => each.calls), sum((each) => each.messages), sum((each) => each.bytes)];
    };
    await eventually("all are counted", async () => sums()[0] === 200);
    expect(sums()).toEqual([200, 200, 600]);
    const points = analytics.of(stream.name).length - 1;
    expect(points).toBeLessThan(200);
  });

  test("a sample has about its share, and weighs as much as all", async () => {
    const { analytics, url } = await serve({ env: { METRICS_SAMPLE: 4 } });
    const stream = await Stream.create(url, { contentType: "text/plain" });
    for (let count = 0; count < 400; count += 1) await stream.append("x");
    const appends = () => analytics.of(stream.name).filter(({ event }) => event === "append");
    await eventually("some are there", async () => appends().length > 60);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(appends().length).toBeGreaterThan(60);
    expect(appends().length).toBeLessThan(145);
    expect(appends().every(({ weight }) => weight === 4)).toBe(true);
  });

  test("a dataset that fails disturbs nothing", async () => {
    const { analytics, url } = await serve();
    analytics.isDown = true;
    const stream = await Stream.create(url, { contentType: "text/plain" });
    for (const text of ["a", "b"]) expect((await stream.append(text)).status).toBe(204);
    await analytics.stop();
    expect((await stream.append("c")).status).toBe(204);
    expect((await stream.get()).text).toBe("abc");
  });

  test("a long name has a short index, and its points have the whole name", async () => {
    const { analytics, url } = await serve();
    const name = `${freshName()}/${"n".repeat(300)}`;
    await new Stream(url, name).put();
    await eventually("it is counted", async () => analytics.of(name).length === 1);
    const [{ index }] = analytics.of(name);
    expect(index).toHaveLength(96);
    expect(name.startsWith(index.slice(0, 79))).toBe(true);
  });
});

describe.runIf(shell === "worker")("questions", () => {
  async function serveWithApi() {
    const analytics = await Analytics.start();
    onTestFinished(() => analytics.stop());
    const server = await startServer({
      env: {
        ADMIN_TOKEN: token,
        CF_ACCOUNT_ID: "0123456789abcdef0123456789abcdef",
        METRICS_API_TOKEN: "of the account",
        TEST_ANALYTICS_URL: `${analytics.url}/sql`,
      },
    });
    onTestFinished(() => server.stop());
    const ask = (path) =>
      request(server.url, `/admin/api/metrics${path}`, {
        headers: { Authorization: `Bearer ${token}` },
      });
    return { analytics, ask };
  }

  test("the busiest streams and the system are those of Analytics Engine", async () => {
    const { analytics, ask } = await serveWithApi();
    analytics.answer.body = '{"data":[{"key":"a/b","messages":"60","bytes":3120.0}]}';
    const hot = await ask("/hot?minutes=10&limit=3");
    expect(hot.status, hot.text).toBe(200);
    expect(hot.headers["cache-control"]).toBe("no-store");
    expect(hot.json()).toEqual({
      streams: [{ streamId: "a/b", messageCount: 60, byteCount: 3120 }],
      periodMinutes: 10,
      since: null,
    });
    expect((await ask("/system")).json()).toEqual({
      messagesLast5Min: 60,
      bytesLast5Min: 3120,
      messagesPerSecond: 0.2,
      activeSubscribers: null,
      since: null,
    });
    expect(analytics.questions).toHaveLength(2);
    for (const { sql, authorization } of analytics.questions) {
      expect(authorization).toBe("Bearer of the account");
      expect(sql).toContain("SUM(_sample_interval * double5 * double2)");
      expect(sql).toMatch(/ FORMAT JSON$/);
    }
    expect(analytics.questions[0].sql).toContain("LIMIT 3");
  });

  test("more than an hour of a stream comes from Analytics Engine", async () => {
    const { analytics, ask } = await serveWithApi();
    const minute = Math.floor(Date.now() / 60_000) - 5;
    analytics.answer.body = `{"data":[{"key":${minute},"messages":7,"bytes":70}]}`;
    const day = (await ask("/streams/a/b/throughput?minutes=1440")).json();
    expect(day.streamId).toBe("a/b");
    expect(day.buckets).toHaveLength(1440);
    const filled = day.buckets.filter(({ messages }) => messages > 0);
    expect(filled).toEqual([{ timestamp: minute * 60_000, messages: 7, bytes: 70 }]);
    expect(day.avgMessagesPerMinute).toBe(0.004);
    expect(analytics.questions[0].sql).toContain("index1 = 'a/b'");
    expect((await ask("/streams/a/throughput?minutes=1441")).status).toBe(400);
    expect((await ask("/streams/a/throughput?minutes=60")).status).toBe(404);
    expect(analytics.questions).toHaveLength(1);
  });

  test("an answer that is none is a 503", async () => {
    const { analytics, ask } = await serveWithApi();
    for (const answer of [
      { status: 403, body: '{"errors":[]}' },
      { status: 200, body: "no JSON" },
      { status: 200, body: '{"data":[{"messages":"x"}]}' },
    ]) {
      analytics.answer = answer;
      const refused = await ask("/system");
      expect(refused.status).toBe(503);
      expect(refused.json().error.code).toBe("unavailable");
      expect(refused.text).not.toContain("of the account");
    }
    await analytics.stop();
    expect((await ask("/hot")).status).toBe(503);
  });
});

describe.runIf(shell === "server")("on one machine", () => {
  test("Prometheus counts the events of streams, their messages and bytes", async () => {
    const server = await startServer();
    onTestFinished(() => server.stop());
    const value = async (name) => {
      const { text } = await request(server.url, "/metrics");
      const line = text.split("\n").find((each) => each.startsWith(`durable_streams_${name} `));
      return line === undefined ? undefined : Number(line.split(" ").at(-1));
    };
    const event = (kind) => value(`events_total{event="${kind}"}`);
    expect(await event("expire")).toBe(0);
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    await eventually("the registry has the stream", async () => (await event("append")) === 1);
    const messages = await value("appended_messages_total");
    const bytes = await value("appended_bytes_total");
    // The first event of the registry finds no stream there.
    const refused = await event("refuse");
    await stream.append("[1,22]");
    await stream.get();
    await stream.append("{");
    await stream.close();
    await stream.append("1");
    await stream.delete();
    await eventually("the registry has the end", async () => (await event("append")) === 3);
    expect(await value("appended_messages_total")).toBe(messages + 3);
    expect(await value("appended_bytes_total")).toBeGreaterThan(bytes + 3);
    const kinds = ["read", "close", "delete", "refuse"];
    expect(await Promise.all(kinds.map(event))).toEqual([1, 1, 1, refused + 2]);
  });
});
