// Subscriptions in the admin API (docs/admin-api.md): the list, one subscription, and the actions.

import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { eventually, request, sleep } from "../harness/http.mjs";
import { Receiver } from "../harness/receiver.mjs";
import { startServer } from "../harness/server.mjs";
import { firstOffset, freshName, Stream } from "../harness/stream.mjs";

const token = "secret of operators";
const json = { "Content-Type": "application/json" };

let server;
/** @type {Receiver} */
let receiver;

beforeAll(async () => {
  receiver = await Receiver.start();
  const env = { ADMIN_TOKEN: token, WEBHOOK_ALLOW_LOOPBACK: "1" };
  server = await startServer({ cold: "directory", env });
});
afterAll(async () => {
  await server?.stop();
  await receiver?.stop();
});

const ask = (path, { headers, ...rest } = {}, base = server.url) =>
  request(base, `/admin/api/subscriptions${path}`, {
    headers: { Authorization: `Bearer ${token}`, ...headers },
    ...rest,
  });
const post = (path, options) => ask(path, { method: "POST", ...options });

/** Asks, and returns the JSON of a 200. */
async function told(path) {
  const answer = await ask(path);
  expect(answer.status, `${path}: ${answer.text}`).toBe(200);
  expect(answer.headers["content-type"]).toBe("application/json");
  expect(answer.headers["cache-control"]).toBe("no-store");
  expect(answer.headers["access-control-allow-origin"]).toBeUndefined();
  return answer.json();
}

function expectRefusal(answer, status, code) {
  expect(answer.status, answer.text).toBe(status);
  expect(answer.headers["access-control-allow-origin"]).toBeUndefined();
  expect(answer.json().error.code).toBe(code);
}

const subscription = (id, method, body, action = "") =>
  request(server.url, `/v1/stream/__ds/subscriptions/${id}${action}`, {
    method,
    headers: json,
    body: body && JSON.stringify(body),
  });

async function subscribe(id, body) {
  const answer = await subscription(id, "PUT", body);
  expect(answer.status, answer.text).toBe(201);
  onTestFinished(async () => {
    await subscription(id, "DELETE");
  });
}

const webhook = (pattern) => ({
  type: "webhook",
  pattern,
  webhook: { url: `${receiver.url}/hook` },
});

async function jsonStream(name, body = "[]") {
  const stream = new Stream(server.url, name, "application/json");
  expect((await stream.put({ body })).status).toBe(201);
  return stream;
}

/** Fails all deliveries of a subscription until the test says otherwise. */
function failDeliveries(id) {
  const failing = { isOver: false };
  receiver.answer = ({ body }) =>
    body.subscription_id === id && !failing.isOver
      ? { status: 500, body: "no" }
      : { status: 200, body: '{"done":true}' };
  return failing;
}

test("every route needs the token, and refuses pages of other sites", async () => {
  const id = freshName("kept");
  await subscribe(id, webhook(`${id}/*`));
  for (const [path, method] of [
    ["", "GET"],
    [`/${id}`, "GET"],
    [`/${id}/retry`, "POST"],
    [`/${id}/delete`, "POST"],
  ]) {
    const wrong = await ask(path, { method, headers: { Authorization: "Bearer wrong" } });
    expectRefusal(wrong, 401, "unauthorized");
    for (const headers of [
      { Origin: "https://evil.example" },
      { Origin: "null" },
      { "Sec-Fetch-Site": "cross-site" },
      { "Sec-Fetch-Site": "same-site" },
    ]) {
      expectRefusal(await ask(path, { method, headers }), 403, "forbidden");
    }
    const allow = method === "GET" ? "GET" : "POST";
    for (const other of ["PUT", "DELETE", "PATCH", method === "GET" ? "POST" : "GET"]) {
      const answer = await ask(path, { method: other });
      expectRefusal(answer, 405, "method_not_allowed");
      expect(answer.headers.allow).toBe(allow);
    }
  }
  expect((await subscription(id, "GET")).status).toBe(200);
});

test("what is not there is answered 404, and bad parameters 400", async () => {
  for (const path of ["/missing", "/a%2Fb"]) {
    expectRefusal(await ask(path), 404, "SUBSCRIPTION_NOT_FOUND");
    expectRefusal(await post(`${path}/retry`), 404, "SUBSCRIPTION_NOT_FOUND");
    // As the protocol's DELETE, which can be repeated.
    expect((await post(`${path}/delete`)).status).toBe(204);
  }
  for (const path of ["/", "/a/b", "/a/b/retry"]) expect((await ask(path)).status).toBe(404);
  for (const [path, reason] of [
    ["?limit=0", "limit must be a whole number from 1 to 1000"],
    ["?prefix=a", "prefix is not a parameter of this route"],
    ["?cursor=%C3%A4", "cursor must be the nextCursor of a page of this list"],
    ["/a?limit=1001", "limit must be a whole number from 1 to 1000"],
    ["/%zz", "the stream name is not valid percent-encoded UTF-8"],
  ]) {
    const answer = await ask(path);
    expectRefusal(answer, 400, "bad_request");
    expect(answer.json().error.message).toBe(reason);
  }
});

test("no client can send what the router sends to a subscription", async () => {
  const id = freshName("inner");
  await subscribe(id, webhook(`${id}/*`));
  for (const method of ["PATCH", "GET"]) {
    const answer = await request(server.url, `/v1/stream/__ds/subscriptions/${id}`, {
      method,
      headers: { "X-Admin-Call": "subscription 100" },
    });
    expect(answer.text).not.toContain("subscriptionId");
    expect(answer.status).toBe(method === "GET" ? 200 : 405);
  }
});

test("the list has all subscriptions once, in pages that go on behind their cursor", async () => {
  const root = freshName("listed");
  const ids = [...Array(9).keys()].map((at) => `${root}-${at}`);
  ids.push(`${root}%2Fslash`);
  for (const id of ids) await subscribe(id, webhook(id.endsWith("0") ? "**" : `${root}/*`));
  const listed = async (limit) => {
    const found = [];
    let cursor;
    do {
      const next = cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`;
      const page = await told(`?limit=${limit}${next}`);
      expect(page.hasMore).toBe(page.nextCursor !== undefined);
      expect(page.subscriptions.length).toBeLessThanOrEqual(limit);
      found.push(...page.subscriptions);
      cursor = page.nextCursor;
    } while (cursor !== undefined);
    return found.filter(({ subscriptionId }) => subscriptionId.startsWith(root));
  };
  for (const limit of [3, 1000]) {
    const found = await listed(limit);
    expect(found.map(({ subscriptionId }) => subscriptionId)).toEqual([...ids].sort());
    for (const { subscriptionId, pattern, createdAt } of found) {
      expect(pattern).toBe(subscriptionId.endsWith("0") ? "**" : `${root}/*`);
      expect(Math.abs(Date.now() - createdAt)).toBeLessThan(60_000);
    }
  }
  const gone = ids.shift();
  expect((await post(`/${gone}/delete`)).status).toBe(204);
  expectRefusal(await ask(`/${gone}`), 404, "SUBSCRIPTION_NOT_FOUND");
  await eventually("the directory knows it", async () => {
    const found = await listed(100);
    return found.every(({ subscriptionId }) => subscriptionId !== gone);
  });
});

test("a pull-wake is shown in each of its states", async () => {
  const id = `${freshName("pull")}%2Fa`;
  const wakes = await jsonStream(freshName("wakes"));
  const source = await jsonStream(freshName("source"));
  const body = {
    type: "pull-wake",
    streams: [source.name],
    wake_stream: wakes.name,
    lease_ttl_ms: 5_000,
    description: "of the <test>",
  };
  await subscribe(id, body);
  const idle = await told(`/${id}`);
  expect(idle).toMatchObject({
    subscriptionId: id,
    type: "pull-wake",
    pattern: null,
    webhookUrl: null,
    wakeStream: wakes.name,
    description: "of the <test>",
    leaseTtlMs: 5_000,
    status: "active",
    state: "idle",
    generation: 0,
    worker: null,
    leaseEndsAt: null,
    failures: 0,
    lastError: null,
    attemptBeganAt: null,
    nextAttemptAt: null,
    streamCount: 1,
    pendingCount: 0,
    hasMore: false,
    streams: [
      {
        streamId: source.name,
        linkType: "explicit",
        ackedOffset: firstOffset,
        tailOffset: firstOffset,
        pending: false,
        linking: false,
      },
    ],
  });
  const { offset } = await source.append("1");
  await eventually("a worker is called", async () => (await told(`/${id}`)).state === "waking");
  const waking = await told(`/${id}`);
  expect(waking).toMatchObject({ generation: 1, leaseEndsAt: null, pendingCount: 1 });
  expect(waking.streams[0]).toMatchObject({ tailOffset: offset, pending: true });
  const claimed = await subscription(id, "POST", { worker: "w1" }, "/claim");
  expect(claimed.status).toBe(200);
  const live = await told(`/${id}`);
  expect(live).toMatchObject({ state: "live", worker: "w1", generation: 1 });
  expect(live.leaseEndsAt).toBeGreaterThan(Date.now());
  expect(live.leaseEndsAt).toBeLessThanOrEqual(Date.now() + 5_000);
  // Looking at it extends no lease.
  expect((await told(`/${id}`)).leaseEndsAt).toBe(live.leaseEndsAt);
  expect((await post(`/${id}/retry`)).json()).toEqual({ retried: false });
});

test("a failing webhook is shown, and sent again at once", async () => {
  const id = freshName("failing");
  const failing = failDeliveries(id);
  await subscribe(id, webhook(`${id}/*`));
  const stream = await jsonStream(`${id}/a`, "[1]");
  const { offset } = await stream.head();
  // After four failures the pause is longer than the test waits.
  await receiver.until(id, 4, 20_000);
  let failed;
  await eventually("the failure is noted", async () => {
    failed = await told(`/${id}`);
    return failed.failures === 4;
  });
  expect(failed).toMatchObject({
    type: "webhook",
    pattern: `${id}/*`,
    webhookUrl: `${receiver.url}/hook`,
    wakeStream: null,
    status: "failed",
    state: "waking",
    generation: 1,
    lastError: "the receiver answered 500",
    attemptBeganAt: null,
    streams: [{ streamId: stream.name, linkType: "glob", ackedOffset: "-1", tailOffset: offset }],
  });
  expect(failed.nextAttemptAt).toBeGreaterThan(Date.now());
  await sleep(300);
  expect(receiver.of(id)).toHaveLength(4);
  failing.isOver = true;
  const retried = await post(`/${id}/retry`);
  expect(retried.status).toBe(200);
  expect(retried.json()).toEqual({ retried: true });
  // An attempt at its own time would come later.
  expect((await receiver.until(id, 5, 20_000)).at).toBeLessThan(failed.nextAttemptAt);
  await eventually("it is done", async () => (await told(`/${id}`)).state === "idle");
  expect(await told(`/${id}`)).toMatchObject({
    status: "active",
    failures: 0,
    lastError: null,
    nextAttemptAt: null,
    pendingCount: 0,
    streams: [{ ackedOffset: offset, pending: false }],
  });
  expect((await post(`/${id}/retry`)).json()).toEqual({ retried: false });
  expect(receiver.of(id)).toHaveLength(5);
});

test("the streams of a subscription are told in pages", async () => {
  const id = freshName("paged");
  const names = ["a", "b", "c"].map((end) => `${id}/${end}`);
  await subscribe(id, { ...webhook(`${id}/*`), streams: names });
  const first = await told(`/${id}?limit=2`);
  expect(first).toMatchObject({ streamCount: 3, hasMore: true, nextCursor: names[1] });
  // They do not exist yet.
  expect(first.streams.map(({ streamId, tailOffset }) => [streamId, tailOffset])).toEqual([
    [names[0], null],
    [names[1], null],
  ]);
  const second = await told(`/${id}?limit=2&cursor=${encodeURIComponent(names[1])}`);
  expect(second.streams.map(({ streamId }) => streamId)).toEqual([names[2]]);
  expect(second.hasMore).toBe(false);
});

test("without subscriptions the routes say so", async () => {
  const own = await startServer({ env: { ADMIN_TOKEN: token, SUBSCRIPTIONS: "0" } });
  onTestFinished(() => own.stop());
  for (const path of ["", "/a"]) expect((await ask(path, {}, own.url)).status).toBe(501);
});
