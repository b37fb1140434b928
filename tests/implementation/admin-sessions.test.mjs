// Sessions in the admin API (docs/admin-api.md): the list, one session, and its deletion.

import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { eventually, request, sleep } from "../harness/http.mjs";
import { shell, startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

const token = "secret of operators";
const json = { "Content-Type": "application/json" };
const unknown = "00000000-0000-4000-8000-000000000000";

let server;

beforeAll(async () => {
  // The Worker's lists come from the index beside its cold tier.
  const cold = shell === "server" ? "directory" : true;
  server = await startServer({ cold, env: { ADMIN_TOKEN: token } });
});
afterAll(() => server?.stop());

const ask = (path, { headers, ...rest } = {}, base = server.url) =>
  request(base, `/admin/api${path}`, {
    headers: { Authorization: `Bearer ${token}`, ...headers },
    ...rest,
  });
const post = (path, options) => ask(path, { method: "POST", ...options });

/** Asks, and returns the JSON of a 200. */
async function told(path, base) {
  const answer = await ask(path, {}, base);
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

const ofClient = (method, path, body, base = server.url) =>
  request(base, path, { method, headers: json, body: body && JSON.stringify(body) });

async function createSession(base) {
  const answer = await ofClient("POST", "/v1/sessions", undefined, base);
  expect(answer.status).toBe(201);
  return answer.json().sessionId;
}

async function subscribe(sessionId, streamId, from) {
  const answer = await ofClient("POST", "/v1/subscriptions", { sessionId, streamId, from });
  expect(answer.status, answer.text).toBe(204);
}

const jsonStream = () => Stream.create(server.url, { contentType: "application/json" });

/** Returns all entries of a list, read in pages. */
async function listed(list, limit) {
  const found = [];
  let cursor;
  do {
    const next = cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await told(`/${list}?limit=${limit}${next}`);
    expect(page.hasMore).toBe(page.nextCursor !== undefined);
    expect(page[list].length).toBeLessThanOrEqual(limit);
    found.push(...page[list]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return found;
}

test("every route needs the token, and refuses pages of other sites", async () => {
  const id = await createSession();
  for (const [path, method] of [
    ["/sessions", "GET"],
    [`/sessions/${id}`, "GET"],
    [`/sessions/${id}/delete`, "POST"],
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
    for (const other of ["PUT", "DELETE", "PATCH", method === "GET" ? "POST" : "GET"]) {
      const answer = await ask(path, { method: other });
      expectRefusal(answer, 405, "method_not_allowed");
      expect(answer.headers.allow).toBe(method);
    }
  }
  expect((await ofClient("GET", `/v1/sessions/${id}`)).status).toBe(200);
});

test("what is not there is answered 404, and bad parameters 400", async () => {
  for (const id of [unknown, "x", unknown.replace("4", "5")]) {
    expectRefusal(await ask(`/sessions/${id}`), 404, "session_not_found");
    expectRefusal(await post(`/sessions/${id}/delete`), 404, "session_not_found");
  }
  for (const path of ["/sessions/", "/sessions/a/b", "/sessions/a/delete/b"]) {
    expectRefusal(await ask(path), 404, "not_found");
  }
  for (const [path, reason] of [
    ["?limit=0", "limit must be a whole number from 1 to 1000"],
    ["?prefix=a", "prefix is not a parameter of this route"],
    [`/${unknown}?limit=1001`, "limit must be a whole number from 1 to 1000"],
    [`/${unknown}?x`, "x is not a parameter of this route"],
  ]) {
    const answer = await ask(`/sessions${path}`);
    expectRefusal(answer, 400, "bad_request");
    expect(answer.json().error.message).toBe(reason);
  }
});

test("no client can send what the router sends to a session", async () => {
  const id = await createSession();
  for (const [header, value] of [
    ["X-Admin-Call", "session 100"],
    ["X-Session-Call", '"delete"'],
  ]) {
    for (const method of ["PATCH", "GET"]) {
      const answer = await request(server.url, `/v1/stream/subscriptions/${id}`, {
        method,
        headers: { [header]: value },
      });
      expect(answer.text).not.toContain("sessionId");
      expect(answer.status).toBe(method === "GET" ? 200 : 405);
    }
  }
});

test("sessions have a list of their own, in pages", async () => {
  const ids = [];
  for (let at = 0; at < 7; at += 1) ids.push(await createSession());
  // Only the ids of sessions make a stream one of a session.
  const near = new Stream(server.url, "subscriptions/7-near", "application/json");
  expect((await near.put()).status).toBe(201);
  onTestFinished(() => near.request("DELETE"));
  await eventually("the list has them", async () => {
    const found = (await listed("sessions", 1000)).map(({ sessionId }) => sessionId);
    return ids.every((id) => found.includes(id));
  });
  for (const limit of [3, 1000]) {
    const found = await listed("sessions", limit);
    const own = found.filter(({ sessionId }) => ids.includes(sessionId));
    expect(own.map(({ sessionId }) => sessionId)).toEqual([...ids].sort());
    expect(found.every(({ sessionId }) => sessionId.length === 36)).toBe(true);
    for (const entry of own) {
      expect(Object.keys(entry)).toEqual(["sessionId", "createdAt", "expiresAt", "ttlSeconds"]);
      expect(entry).toMatchObject({ expiresAt: null, ttlSeconds: 86_400 });
      expect(Math.abs(Date.now() - entry.createdAt)).toBeLessThan(60_000);
    }
  }
  await eventually("the list of streams has none of them", async () => {
    const streams = (await listed("streams", 100)).map(({ streamId }) => streamId);
    for (const id of ids) expect(streams).not.toContain(`subscriptions/${id}`);
    return streams.includes(near.name);
  });
  const gone = ids.shift();
  const deleted = await post(`/sessions/${gone}/delete`);
  expect(deleted.status).toBe(204);
  await eventually("the list knows that one is gone", async () => {
    const found = await listed("sessions", 100);
    return found.every(({ sessionId }) => sessionId !== gone);
  });
});

test("the detail says what the session has of each stream", async () => {
  const [id, first, second] = [await createSession(), await jsonStream(), await jsonStream()];
  const began = (await first.append("[1,2]")).offset;
  const stream = new Stream(server.url, `subscriptions/${id}`, "application/json");
  expect(await told(`/sessions/${id}`)).toMatchObject({
    sessionId: id,
    streamId: stream.name,
    ttlSeconds: 86_400,
    messageCount: 0,
    totalBytes: 0,
    subscriberCount: 0,
    subscriptionCount: 0,
    subscribedStreams: [],
    hasMore: false,
  });
  await subscribe(id, first.name);
  await subscribe(id, second.name, "-1");
  const { offset } = await first.append("3");
  await eventually("it has it", async () => (await told(`/sessions/${id}`)).messageCount === 1);
  const all = (await stream.request("GET", { query: "?offset=-1" })).text;
  const detail = await told(`/sessions/${id}`);
  expect(detail).toMatchObject({
    tailOffset: (await stream.head()).offset,
    totalBytes: Buffer.byteLength(all) - "[]".length,
    subscriptionCount: 2,
  });
  const expected = [
    { streamId: first.name, fromOffset: began, deliveredOffset: offset, linking: false },
    { streamId: second.name, fromOffset: second.start, deliveredOffset: second.start },
  ];
  expected.sort((a, b) => (a.streamId < b.streamId ? -1 : 1));
  expect(detail.subscribedStreams).toMatchObject(expected);
  const page = await told(`/sessions/${id}?limit=1`);
  expect(page).toMatchObject({ subscriptionCount: 2, hasMore: true });
  const cursor = encodeURIComponent(page.nextCursor);
  const next = await told(`/sessions/${id}?limit=1&cursor=${cursor}`);
  expect(next.hasMore).toBe(false);
  expect([...page.subscribedStreams, ...next.subscribedStreams]).toMatchObject(expected);

  const reader = await stream.events("now");
  await eventually("the reader is counted", async () => {
    return (await told(`/sessions/${id}`)).subscriberCount === 1;
  });
  reader.close();
});

test("both sides know of a subscription, until the session is deleted", async () => {
  const [id, other, stream] = [await createSession(), await createSession(), await jsonStream()];
  const count = async () => (await told(`/streams/${stream.name}/detail`)).sessionCount;
  expect(await count()).toBe(0);
  for (const session of [id, other]) await subscribe(session, stream.name);
  expect(await count()).toBe(2);
  const answer = await post(`/sessions/${id}/delete`);
  expect(answer.status).toBe(204);
  expect(answer.headers["access-control-allow-origin"]).toBeUndefined();
  expectRefusal(await ask(`/sessions/${id}`), 404, "session_not_found");
  expectRefusal(await post(`/sessions/${id}/delete`), 404, "session_not_found");
  expect((await ofClient("GET", `/v1/sessions/${id}`)).status).toBe(404);
  await eventually("the stream knows it", async () => (await count()) === 1);
  await post(`/streams/${stream.name}/delete`);
  await eventually("the other session knows it", async () => {
    return (await told(`/sessions/${other}`)).subscriptionCount === 0;
  });
});

test("looking at a session is no use of it", async () => {
  const own = await startServer({ env: { ADMIN_TOKEN: token, SESSION_TTL_SECONDS: "5" } });
  onTestFinished(() => own.stop());
  const id = await createSession(own.url);
  const { createdAt, expiresAt } = await told(`/sessions/${id}`, own.url);
  expect(expiresAt).toBe(createdAt + 5_000);
  let answer;
  await eventually("it has expired", async () => {
    await sleep(100);
    answer = await ask(`/sessions/${id}`, {}, own.url);
    if (answer.status === 200) expect(answer.json().expiresAt).toBe(expiresAt);
    return answer.status !== 200;
  });
  expectRefusal(answer, 410, "session_expired");
});

test.runIf(shell === "worker")("the list needs the binding of the index", async () => {
  const own = await startServer({ env: { ADMIN_TOKEN: token } });
  onTestFinished(() => own.stop());
  const answer = await ask("/sessions", {}, own.url);
  expectRefusal(answer, 503, "not_configured");
  expect(answer.json().error.message).toContain("ADMIN_INDEX");
});
