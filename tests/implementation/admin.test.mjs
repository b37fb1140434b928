// The admin API (docs/admin-api.md): who may use it, and that its answers are true.

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { eventually, request } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { freshName, producer, Stream } from "../harness/stream.mjs";

const token = "secret of operators";
const minuteMs = 60_000;

/** @param {import("../harness/server.mjs").ServerOptions} [options] */
async function serve(options) {
  const own = await startServer(options);
  onTestFinished(() => own.stop());
  return own;
}

let server;

beforeAll(async () => {
  server = await startServer({ cold: true, env: { ADMIN_TOKEN: token } });
});
afterAll(() => server.stop());

/**
 * @param {string} path
 * @param {import("../harness/http.mjs").Options} [options]
 */
const ask = (path, { headers, ...rest } = {}, base = server.url) =>
  request(base, `/admin/api${path}`, {
    headers: { Authorization: `Bearer ${token}`, ...headers },
    ...rest,
  });

/** Asks, and returns the JSON of a 200. */
async function told(path, base) {
  const answer = await ask(path, {}, base);
  expect(answer.status, `${path}: ${answer.text}`).toBe(200);
  expect(answer.headers["content-type"]).toBe("application/json");
  return answer.json();
}

const post = (path, options) => ask(path, { method: "POST", ...options });
const detail = (stream) => told(`/streams/${stream.name}/detail`);

/** Lists all pages below a prefix. */
async function listed(prefix, limit = 100) {
  const streams = [];
  let cursor;
  do {
    const next = cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const query = `limit=${limit}&prefix=${encodeURIComponent(prefix)}${next}`;
    const page = await told(`/streams?${query}`);
    expect(page.hasMore).toBe(page.nextCursor !== undefined);
    expect(page.streams.length).toBeLessThanOrEqual(limit);
    streams.push(...page.streams);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return streams;
}

/** Waits until the list below the prefix has these ids. The admin index follows with a delay. */
const untilListed = (prefix, ids) =>
  eventually(`the list has ${ids}`, async () => {
    const streams = await listed(prefix);
    return streams.map(({ streamId }) => streamId).join() === ids.join();
  });

const reads = [
  "/health",
  "/streams",
  "/streams/a",
  "/streams/a/detail",
  "/streams/a/segments",
  "/streams/a/producers",
  "/streams/a/outbox",
  "/metrics/hot",
  "/metrics/system",
  "/metrics/streams/a/throughput",
  "/metrics/streams/a/subscribers",
];
const actions = ["create", "append", "close", "delete", "seal"].map((word) => `/streams/a/${word}`);

function expectRefusal(answer, status, code) {
  expect(answer.status, answer.text).toBe(status);
  expect(answer.headers["cache-control"]).toBe("no-store");
  expect(answer.headers["access-control-allow-origin"]).toBeUndefined();
  const { error } = answer.json();
  expect(error.code).toBe(code);
  expect(error.message).toMatch(/^[^\r\n]{10,300}$/);
}

describe("access", () => {
  test("every route needs the token", async () => {
    for (const [paths, method] of [
      [reads, "GET"],
      [actions, "POST"],
      [["", "/", "/nothing", "/streams/__ds/x"], "GET"],
    ]) {
      for (const path of paths) {
        for (const Authorization of ["", "Bearer wrong", `Basic ${token}`, `Bearer ${token}x`]) {
          const answer = await ask(path, { method, headers: { Authorization } });
          expectRefusal(answer, 401, "unauthorized");
          expect(answer.headers["www-authenticate"]).toBe("Bearer");
        }
      }
    }
  });

  test("the token of streams is not that of operators", async () => {
    const own = await serve({ env: { AUTH_TOKEN: "of streams", ADMIN_TOKEN: token } });
    const headers = { Authorization: "Bearer of streams" };
    const answer = await ask("/streams/a", { headers }, own.url);
    expectRefusal(answer, 401, "unauthorized");
    const created = await request(own.url, "/admin/api/streams/a/create", {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "text/plain" },
    });
    expect(created.status).toBe(201);
  });

  test("without a token the API is closed, or open on this machine alone", async () => {
    const own = await serve();
    const near = await request(own.url, "/admin/api/health");
    if (shell === "worker") return expectRefusal(near, 403, "forbidden");
    expect(near.status).toBe(200);
    for (const headers of [
      { Host: "streams.example" },
      { Host: `localhost.example:${own.port}` },
      { "X-Forwarded-For": "10.0.0.1" },
      { Forwarded: "for=10.0.0.1" },
    ]) {
      const answer = await request(own.url, "/admin/api/health", { headers });
      expectRefusal(answer, 403, "forbidden");
    }
    const guarded = await serve({ env: { AUTH_TOKEN: "of streams" } });
    expectRefusal(await request(guarded.url, "/admin/api/health"), 403, "forbidden");
  });

  test.runIf(shell === "worker")("ADMIN_OPEN opens the API to everybody", async () => {
    const own = await serve({ env: { ADMIN_OPEN: "1" } });
    expect((await request(own.url, "/admin/api/health")).status).toBe(200);
  });

  test("pages of other sites are refused, even with the token", async () => {
    const name = freshName();
    const { host } = new URL(server.url);
    const create = (headers) =>
      post(`/streams/${name}/create`, { headers: { "Content-Type": "text/plain", ...headers } });
    for (const headers of [
      { Origin: "https://evil.example" },
      { Origin: "null" },
      { Origin: `http://${host}.evil.example` },
      { "Sec-Fetch-Site": "cross-site" },
      { "Sec-Fetch-Site": "same-site" },
    ]) {
      expectRefusal(await create(headers), 403, "forbidden");
      expectRefusal(await ask("/streams", { headers }), 403, "forbidden");
      expectRefusal(await ask("/streams", { method: "OPTIONS", headers }), 403, "forbidden");
    }
    expect((await new Stream(server.url, name).head()).status).toBe(404);
    const own = await create({ Origin: `http://${host}`, "Sec-Fetch-Site": "same-origin" });
    expect(own.status).toBe(201);
    expect(own.headers["access-control-allow-origin"]).toBeUndefined();
  });
});

describe("parameters", () => {
  test.each([
    ["/streams?limit=0", "limit must be a whole number from 1 to 1000"],
    ["/streams?limit=1001", "limit must be a whole number from 1 to 1000"],
    ["/streams?limit=ten", "limit must be a whole number from 1 to 1000"],
    ["/streams?limit=1&limit=2", "limit is there more than once"],
    ["/streams?after=1", "after is not a parameter of this route"],
    ["/streams?prefix=%zz", "the query is not valid percent-encoded UTF-8"],
    ["/streams/a?limit=1", "limit is not a parameter of this route"],
    ["/streams/a/segments?limit=101", "limit must be a whole number from 1 to 100"],
    ["/streams/a/segments?after=-1", "after must be a whole number from 0 to 9007199254740991"],
    ["/streams/a/producers?limit=0", "limit must be a whole number from 1 to 100"],
    ["/streams/a/outbox?cursor=x", "cursor must be the nextCursor of a page of this list"],
    ["/streams/%zz", "the stream name is not valid percent-encoded UTF-8"],
    ["/metrics/hot?minutes=61", "minutes must be a whole number from 1 to 60"],
    ["/metrics/hot?limit=0", "limit must be a whole number from 1 to 100"],
    ["/metrics/system?minutes=1", "minutes is not a parameter of this route"],
    ["/metrics/streams/a/throughput?minutes=0", "minutes must be a whole number from 1 to 60"],
    ["/health?x", "x is not a parameter of this route"],
  ])("%s is refused with a reason", async (path, reason) => {
    const answer = await ask(path);
    expectRefusal(answer, 400, "bad_request");
    expect(answer.json().error.message).toBe(reason);
  });

  test("what is not there is answered 404, and other methods 405", async () => {
    const name = freshName();
    for (const path of reads.filter((path) => path.includes("/a")))
      expectRefusal(await ask(path.replace("/a", `/${name}`)), 404, "stream_not_found");
    for (const path of ["", "/", "/nothing", "/streams/", "/metrics", "/metrics/streams/a"])
      expectRefusal(await ask(path), 404, "not_found");
    expectRefusal(await ask("/streams/__ds/x"), 404, "reserved");
    for (const [path, method, allow] of [
      ...reads.map((path) => [path, "POST", "GET"]),
      ...actions.map((path) => [path, "GET", "POST"]),
      ...actions.map((path) => [path, "PATCH", "POST"]),
    ]) {
      const answer = await ask(path, { method });
      expectRefusal(answer, 405, "method_not_allowed");
      expect(answer.headers.allow).toBe(allow);
    }
  });

  test("no client can send what the router sends to objects", async () => {
    const stream = await Stream.create(server.url);
    for (const method of ["PATCH", "GET"]) {
      const answer = await stream.request(method, { headers: { "X-Admin-Call": "detail" } });
      expect(answer.text).not.toContain("streamId");
      expect(answer.status).toBe(method === "GET" ? 200 : 405);
    }
  });
});

describe("the detail of a stream", () => {
  test("says whether it is closed, and what it holds", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    const empty = await detail(stream);
    expect(empty).toMatchObject({
      streamId: stream.name,
      contentType: "application/json",
      closed: false,
      expiresAt: null,
      ttlSeconds: null,
      forkedFrom: null,
      forkOffset: null,
      inheritedSegments: 0,
      forkCount: 0,
      tailOffset: stream.start,
      segmentCount: 0,
      messageCount: 0,
      totalBytes: 0,
      subscriberCount: 0,
      sessionCount: 0,
      openSegment: null,
      nextToStore: null,
    });
    expect(empty.incarnation).toMatch(/^[0-9a-f]{16}$/);
    expect(Math.abs(Date.now() - empty.createdAt)).toBeLessThan(minuteMs);
    await stream.append('[{"a":1},22,"333"]');
    const { offset } = await stream.append("[4]");
    const full = await detail(stream);
    expect(full).toMatchObject({ tailOffset: offset, messageCount: 4, totalBytes: 15 });
    expect(full.openSegment).toMatchObject({ readSeq: 0, messageCount: 4, sizeBytes: 15 });
    await stream.close();
    expect(await detail(stream)).toMatchObject({
      closed: true,
      segmentCount: 1,
      messageCount: 4,
      totalBytes: 15,
      openSegment: null,
    });
  });

  test("counts appends and their bytes where the content is bytes", async () => {
    const stream = await Stream.create(server.url, { body: "first" });
    await stream.append("second");
    expect(await detail(stream)).toMatchObject({ messageCount: 2, totalBytes: 11 });
    await post(`/streams/${stream.name}/seal`);
    await stream.append("x".repeat(3 << 20));
    const expected = { messageCount: 3, totalBytes: 11 + (3 << 20), segmentCount: 1 };
    expect(await detail(stream)).toMatchObject(expected);
    await stream.request("GET", { headers: { "X-Test-Op": "reset" } }).catch(() => {});
    await stream.append("y");
    expect(await detail(stream)).toMatchObject({
      ...expected,
      messageCount: 4,
      totalBytes: 12 + (3 << 20),
    });
  });

  test("has the end of streams that end by themselves, and nothing once they have", async () => {
    const at = new Date(Date.now() + 6_000);
    const [fixed, sliding] = await Promise.all([
      Stream.create(server.url, { headers: { "Stream-Expires-At": at.toISOString() } }),
      Stream.create(server.url, { headers: { "Stream-TTL": "3600" } }),
    ]);
    expect(await detail(fixed)).toMatchObject({ expiresAt: at.getTime(), ttlSeconds: null });
    const { expiresAt, createdAt, ttlSeconds } = await detail(sliding);
    expect(ttlSeconds).toBe(3600);
    expect(expiresAt).toBe(createdAt + 3_600_000);
    await new Promise((resolve) => setTimeout(resolve, at.getTime() - Date.now() + 100));
    for (const word of ["detail", "segments", "producers"])
      expectRefusal(await ask(`/streams/${fixed.name}/${word}`), 404, "stream_not_found");
    await untilListed(fixed.name, []);
  });

  test("has the live readers of this moment", async () => {
    const stream = await Stream.create(server.url);
    const path = `/metrics/streams/${stream.name}/subscribers`;
    const none = { streamId: stream.name, activeSubscribers: 0 };
    expect(await told(path)).toEqual(none);
    const readers = await Promise.all([0, 1].map(() => stream.events("now")));
    await eventually("both are counted", async () => (await told(path)).activeSubscribers === 2);
    expect((await detail(stream)).subscriberCount).toBe(2);
    readers.forEach((reader) => reader.close());
    // The platform notices that a silent client is gone when it writes the next time.
    await eventually("none is left", async () => {
      await stream.append("x");
      return (await told(path)).activeSubscribers === 0;
    });
  });

  test("says when the alarm comes, and why", async () => {
    const stream = await Stream.create(server.url, { body: "x" });
    await eventually("nothing is left to do", async () => (await detail(stream)).outboxEmpty);
    const { alarm, timers, createdAt } = await detail(stream);
    const age = timers.find(({ reason }) => reason === "segment-age");
    expect(age.at).toBe(createdAt + 86_400_000);
    expect(alarm.at).toBeLessThanOrEqual(age.at);
    expect(alarm.reason).toMatch(/^[a-z-]+$/);
  });

  test("knows forks from both sides", async () => {
    const source = await Stream.create(server.url, { body: "abc" });
    const fork = new Stream(server.url, freshName());
    const forked = { "Stream-Forked-From": source.path };
    expect((await fork.put({ headers: forked })).status).toBe(201);
    expect((await detail(source)).forkCount).toBe(1);
    await fork.append("de");
    expect(await detail(fork)).toMatchObject({
      forkedFrom: source.name,
      inheritedSegments: 1,
      segmentCount: 0,
      messageCount: 1,
      totalBytes: 2,
    });
    await source.delete();
    expectRefusal(await ask(`/streams/${source.name}`), 410, "stream_gone");
  });
});

test("ids may have slashes, and words of the API", async () => {
  const root = freshName();
  for (const id of ["a/b", "a%2Fb", "a/segments", "a/detail", "a/append"]) {
    const stream = new Stream(server.url, `${root}/${id}`);
    expect((await stream.put({ body: id })).status).toBe(201);
    expect(await detail(stream)).toMatchObject({
      streamId: stream.name,
      totalBytes: id.length,
    });
    const { buckets } = await told(`/metrics/streams/${stream.name}/throughput?minutes=2`);
    expect(buckets.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(id.length);
  }
  expect(await told(`/streams/${root}/a/b`)).toMatchObject({ streamId: `${root}/a/b` });
  expectRefusal(await ask(`/streams/${root}/a/segments`), 404, "stream_not_found");
  const appended = await post(`/streams/${root}/a/append/append`, {
    headers: { "Content-Type": "text/plain" },
    body: "more",
  });
  expect(appended.status).toBe(204);
  await untilListed(`${root}/`, ["a%2Fb", "a/append", "a/b", "a/detail", "a/segments"].map(
    (id) => `${root}/${id}`,
  ));
});

describe("the list", () => {
  test("takes a prefix as it is, in pages of any size", async () => {
    const root = freshName();
    const ids = ["100%25", "100%25-a", "100x", "a!", "a_b", "a_c", "axb"];
    const names = ids.map((id) => `${root}-${id}`);
    for (const name of names) await new Stream(server.url, name).put();
    await untilListed(root, names);
    for (const limit of [1, 2, 3, 1000]) {
      const of = async (prefix) =>
        (await listed(prefix, limit)).map(({ streamId }) => streamId.slice(root.length + 1));
      expect(await of(root)).toEqual(ids);
      expect(await of(`${root}-a_`)).toEqual(["a_b", "a_c"]);
      expect(await of(`${root}-100%25`)).toEqual(["100%25", "100%25-a"]);
      expect(await of(`${root}-%`)).toEqual([]);
      expect(await of(`${root}-_`)).toEqual([]);
    }
  });

  test("says what is true of each stream", async () => {
    const root = freshName();
    const at = new Date(Date.now() + 3_600_000);
    const made = async (id, headers, contentType) => {
      const stream = new Stream(server.url, `${root}-${id}`, contentType);
      expect((await stream.put({ headers })).status).toBe(201);
      return stream;
    };
    const closed = await made("a", {}, "application/json");
    await made("b", { "Stream-Expires-At": at.toISOString() });
    await made("c", { "Stream-TTL": "60", "Stream-Closed": "true" });
    await made("d", { "Stream-Forked-From": closed.path }, "application/json");
    const deleted = await made("e", {});
    await closed.close();
    await deleted.delete();
    const names = ["a", "b", "c", "d"].map((id) => `${root}-${id}`);
    await untilListed(root, names);
    await eventually("the closure is listed", async () => (await listed(root))[0].closed);
    const streams = await listed(root);
    for (const { createdAt } of streams)
      expect(Math.abs(Date.now() - createdAt)).toBeLessThan(minuteMs);
    const plain = { expiresAt: null, ttlSeconds: null, forkedFrom: null };
    expect(streams).toMatchObject([
      { ...plain, streamId: names[0], contentType: "application/json", closed: true },
      { ...plain, contentType: "text/plain", closed: false, expiresAt: at.getTime() },
      { ...plain, closed: true, ttlSeconds: 60 },
      { ...plain, closed: false, forkedFrom: closed.name },
    ]);
  });

  test("leaves the registry out", async () => {
    await Stream.create(server.url);
    expect(await listed("__registry__")).toEqual([]);
  });

  test.runIf(shell === "worker")("needs the binding of the index", async () => {
    const own = await serve({ env: { ADMIN_TOKEN: token } });
    const answer = await ask("/streams", {}, own.url);
    expectRefusal(answer, 503, "not_configured");
    expect(answer.json().error.message).toContain("ADMIN_INDEX");
  });

  test.runIf(shell === "worker")("is answered 503 while the index fails", async () => {
    await server.coldTier.disturb({ index: { fail: 1 } });
    onTestFinished(() => server.coldTier.disturb({}));
    expectRefusal(await ask("/streams"), 503, "unavailable");
    const health = await told("/health");
    expect(health.status).toBe("degraded");
    expect(health.services.d1.available).toBe(false);
    expect(health.services.r2.available).toBe(true);
  });
});

test("segments are listed in pages, with their objects", async () => {
  const stream = await Stream.create(server.url);
  for (const body of ["a", "bb", "ccc"]) {
    await stream.append(body);
    const sealed = await post(`/streams/${stream.name}/seal`);
    expect(sealed.json()).toEqual({ sealed: true, tailOffset: (await stream.head()).offset });
  }
  const again = await post(`/streams/${stream.name}/seal`);
  expect(again.json()).toMatchObject({ sealed: false });
  const path = `/streams/${stream.name}/segments`;
  await eventually("all are stored", async () =>
    (await told(path)).segments.every(({ r2Key }) => r2Key !== null),
  );
  const first = await told(`${path}?limit=2`);
  expect(first).toMatchObject({ nextCursor: 1, hasMore: true });
  const second = await told(`${path}?limit=2&after=${first.nextCursor}`);
  expect(second.hasMore).toBe(false);
  expect(second).not.toHaveProperty("nextCursor");
  const segments = [...first.segments, ...second.segments];
  expect(segments.map(({ readSeq, sizeBytes }) => [readSeq, sizeBytes])).toEqual([
    [0, 1],
    [1, 2],
    [2, 3],
  ]);
  for (const segment of segments) {
    expect(segment).toMatchObject({
      streamId: stream.name,
      contentType: "text/plain",
      expiresAt: null,
      messageCount: 1,
      attempts: 1,
    });
    const read = await stream.read(segment.startOffset);
    expect(read.text.length).toBeGreaterThanOrEqual(segment.sizeBytes);
  }
  expect(segments.at(-1).endOffset).toBe((await stream.head()).offset);
  const keys = (await server.coldTier.objectsOf(stream.name)).map(({ key }) => key);
  expect(keys.sort()).toEqual(segments.map(({ r2Key }) => r2Key).sort());
  expect((await stream.read()).text).toBe("abbccc");
  expect(await detail(stream)).toMatchObject({ segmentCount: 3, nextToStore: null });
});

test("a segment cannot be sealed without a cold tier", async () => {
  const own = await serve({ env: { ADMIN_TOKEN: token } });
  const stream = await Stream.create(own.url, { body: "x" });
  const path = `/streams/${stream.name}/seal`;
  expectRefusal(await ask(path, { method: "POST" }, own.url), 503, "not_configured");
});

test("producers are listed in pages, from sealed segments and from the open one", async () => {
  const stream = await Stream.create(server.url);
  await stream.append("1", producer("p-1", 0, 0));
  await stream.append("2", producer("p/2 ä", 3, 0));
  await post(`/streams/${stream.name}/seal`);
  await stream.append("3", producer("p-1", 0, 1));
  await stream.append("4", producer("z", 9, 0));
  const path = `/streams/${stream.name}/producers`;
  const found = [];
  let cursor;
  do {
    const next = cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await told(`${path}?limit=1${next}`);
    expect(page.producers).toHaveLength(1);
    found.push(...page.producers);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  expect(found.map(({ producerId, epoch, seq }) => [producerId, epoch, seq])).toEqual([
    ["p-1", 0, 1],
    ["p/2 ä", 3, 0],
    ["z", 9, 0],
  ]);
  for (const { usedAt } of found) expect(Math.abs(Date.now() - usedAt)).toBeLessThan(minuteMs);
});

test("the outbox shows what is left of a deleted stream", async () => {
  const stream = await Stream.create(server.url, { body: "x" });
  await post(`/streams/${stream.name}/seal`);
  await eventually("it is stored", async () => (await detail(stream)).nextToStore === null);
  expect((await post(`/streams/${stream.name}/delete`)).status).toBe(204);
  expect((await stream.head()).status).toBe(404);
  const path = `/streams/${stream.name}/outbox`;
  const { tasks, hasMore } = await told(path);
  expect(hasMore).toBe(false);
  const collect = tasks.find(({ kind }) => kind === "collect");
  expect(collect).toMatchObject({ queue: "segments", failures: 0 });
  expect(collect.dueAt).toBeGreaterThan(Date.now());
  const seen = [];
  let cursor;
  do {
    const next = cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await told(`${path}?limit=1${next}`);
    seen.push(...page.tasks.map(({ queue }) => queue));
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  expect(seen).toContain("segments");
});

describe("actions", () => {
  test("do what the protocol's requests do", async () => {
    const name = freshName();
    const headers = { "Content-Type": "application/json" };
    const act = (word, options = {}) =>
      post(`/streams/${name}/${word}`, { headers: { ...headers, ...options.headers }, ...options });
    const created = await act("create", { body: "[1]" });
    expect(created.status).toBe(201);
    expect(created.headers.location).toBe(`${server.url}/v1/stream/${name}`);
    const stream = new Stream(server.url, name, "application/json");
    const stamped = { ...headers, ...producer("p", 0, 0) };
    for (const status of [200, 204]) {
      const appended = await act("append", { body: "[2,3]", headers: stamped });
      expect(appended.status).toBe(status);
      expect(appended.headers["producer-seq"]).toBe("0");
      expect(appended.headers["cache-control"]).toBe("no-store");
    }
    const large = `["${"x".repeat(2 << 20)}"]`;
    expect((await act("append", { body: large })).status).toBe(204);
    expect((await act("append", { body: "{" })).status).toBe(400);
    expect((await act("append")).status).toBe(400);
    const closed = await act("close", { body: "[4]" });
    expect(closed.status).toBe(204);
    expect(closed.closed).toBe("true");
    const messages = await stream.messages();
    expect(messages.map((each) => (typeof each === "string" ? each.length : each))).toEqual([
      1,
      2,
      3,
      2 << 20,
      4,
    ]);
    expect((await act("append", { body: "[5]" })).status).toBe(409);
    expect((await act("close")).status).toBe(204);
    expect((await act("delete")).status).toBe(204);
    expect((await act("delete")).status).toBe(404);
  });

  test("do not touch the registry", async () => {
    for (const path of actions) {
      const answer = await post(path.replace("/a/", "/__registry__/"), { body: "[]" });
      expectRefusal(answer, 403, "forbidden");
    }
  });
});

describe("throughput", () => {
  test("has a bucket for each minute, and the average of all", async () => {
    const stream = await Stream.create(server.url, { contentType: "application/json" });
    await stream.append("[1,22,333]");
    const path = `/metrics/streams/${stream.name}/throughput`;
    const expected = async (messages, bytes) => {
      const before = Date.now();
      const { streamId, buckets, avgMessagesPerMinute, periodMinutes } = await told(path);
      expect([streamId, periodMinutes]).toEqual([stream.name, 60]);
      expect(buckets).toHaveLength(60);
      const last = buckets.at(-1).timestamp;
      expect(last % minuteMs).toBe(0);
      expect(Math.abs(before - last)).toBeLessThan(2 * minuteMs);
      buckets.forEach(({ timestamp }, at) =>
        expect(timestamp).toBe(last - (59 - at) * minuteMs),
      );
      const sum = (name) => buckets.reduce((total, bucket) => total + bucket[name], 0);
      expect([sum("messages"), sum("bytes")]).toEqual([messages, bytes]);
      expect(avgMessagesPerMinute).toBeCloseTo(messages / 60, 2);
    };
    await expected(3, 6);
    await stream.request("GET", { headers: { "X-Test-Op": "reset" } }).catch(() => {});
    await expected(3, 6);
    await stream.append("[4]");
    await expected(4, 7);
    await post(`/streams/${stream.name}/seal`);
    await eventually("it is stored", async () => (await detail(stream)).nextToStore === null);
    await expected(4, 7);
    await stream.append("[5,6]");
    await stream.request("GET", { headers: { "X-Test-Op": "reset" } }).catch(() => {});
    await expected(6, 9);
    const short = await told(`${path}?minutes=3`);
    expect(short.buckets).toHaveLength(3);
    expect(short.avgMessagesPerMinute).toBeCloseTo(2, 2);
  });

  test.runIf(shell === "server")("of all streams is counted on one machine", async () => {
    const own = await serve();
    const near = async (path) => (await request(own.url, `/admin/api${path}`)).json();
    const before = Date.now();
    expect(await near("/metrics/hot")).toMatchObject({ streams: [], periodMinutes: 5 });
    const [cool, hot] = await Promise.all([
      Stream.create(own.url, { body: "12" }),
      Stream.create(own.url),
    ]);
    for (const body of ["123", "4567"]) await hot.append(body);
    const { streams, since } = await near("/metrics/hot?minutes=3");
    const counted = streams.filter(({ streamId }) => !streamId.startsWith("__registry__"));
    expect(counted).toEqual([
      { streamId: hot.name, messageCount: 2, byteCount: 7 },
      { streamId: cool.name, messageCount: 1, byteCount: 2 },
    ]);
    expect(since).toBeLessThanOrEqual(before);
    expect((await near("/metrics/hot?limit=1")).streams).toHaveLength(1);
    const reader = await hot.events("now");
    await eventually(
      "the reader is counted",
      async () => (await near("/metrics/system")).activeSubscribers === 1,
    );
    const system = await near("/metrics/system");
    const all = streams.reduce((sum, { messageCount }) => sum + messageCount, 0);
    expect(system.messagesLast5Min).toBeGreaterThanOrEqual(all);
    expect(system.bytesLast5Min).toBeGreaterThanOrEqual(9);
    expect(system.messagesPerSecond).toBeCloseTo(system.messagesLast5Min / 300, 2);
    reader.close();
  });

  test.runIf(shell === "worker")("of all streams is not known to the Worker", async () => {
    for (const path of ["/metrics/hot", "/metrics/system"])
      expectRefusal(await ask(path), 503, "not_configured");
  });
});

test("health has all services that are configured", async () => {
  const { status, timestamp, services } = await told("/health");
  expect(status).toBe("healthy");
  expect(Math.abs(Date.now() - timestamp)).toBeLessThan(minuteMs);
  const names = shell === "worker" ? ["d1", "r2", "registry"] : ["cold", "storage"];
  expect(Object.keys(services).sort()).toEqual(names);
  for (const { available, latencyMs, error } of Object.values(services)) {
    expect(available).toBe(true);
    expect(latencyMs).toBeGreaterThanOrEqual(0);
    expect(error).toBeNull();
  }
});

test.runIf(shell === "worker")("a registry that answers 503 is not available", async () => {
  const own = await serve({ cold: true, env: { ADMIN_TOKEN: token } });
  await Stream.create(own.url, { body: "x" });
  const registry = new Stream(own.url, "__registry__", "application/json");
  await eventually("the registry is there", async () => (await registry.head()).status === 200);
  const operate = (operation, headers) =>
    registry.request("GET", { headers: { "X-Test-Op": operation, ...headers } });
  expect((await told("/health", own.url)).status).toBe("healthy");
  const newer = "UPDATE stream SET schema = schema + 1";
  expect((await operate("execute", { "X-Test-Statements": newer })).status).toBe(204);
  await operate("reset").catch(() => {});
  await eventually("the object refuses", async () => (await registry.head()).status === 503);
  const { status, services } = await told("/health", own.url);
  expect(status).toBe("degraded");
  expect(services.registry.available).toBe(false);
  expect(services.d1.available && services.r2.available).toBe(true);
});
