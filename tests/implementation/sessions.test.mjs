// Sessions (docs/sessions.md): one stream into which all streams arrive that a client has
// subscribed to.

import { afterAll, beforeAll, expect, test } from "vitest";
import { request, sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { firstOffset, freshName, Stream } from "../harness/stream.mjs";

const json = { "Content-Type": "application/json" };
const unknown = "00000000-0000-4000-8000-000000000000";

let server;

beforeAll(async () => {
  server = await startServer({
    cold: "directory",
    env: { SEGMENT_MAX_MESSAGES: "8", SESSION_STREAMS_MAX: "60" },
  });
});
afterAll(() => server?.stop());

const ask = (method, path, body, headers) =>
  request(server.url, path, { method, headers, body: body && JSON.stringify(body) });

async function createSession() {
  const answer = await ask("POST", "/v1/sessions");
  expect(answer.status).toBe(201);
  expect(answer.headers["cache-control"]).toBe("no-store");
  return answer.json().sessionId;
}

const subscribe = (sessionId, streamId, from) =>
  ask("POST", "/v1/subscriptions", { sessionId, streamId, from });
const unsubscribe = (sessionId, streamId) =>
  ask("DELETE", "/v1/subscriptions", { sessionId, streamId });
const streamOf = (sessionId) =>
  new Stream(server.url, `subscriptions/${sessionId}`, "application/json");

/** Waits until the session has this many envelopes, and returns all of them. */
async function envelopes(sessionId, count, timeoutMs = 30_000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const answer = await streamOf(sessionId).request("GET", { query: "?offset=-1" });
    expect(answer.status).toBe(200);
    const found = answer.json();
    if (found.length >= count) return found;
    if (Date.now() > deadline) throw new Error(`${found.length} envelopes, not ${count}`);
    await sleep(20);
  }
}

const numbers = (from, to) => Array.from({ length: to - from }, (_, index) => from + index);

test("what is appended to a stream arrives in the session as envelopes", async () => {
  const [session, other] = [await createSession(), await createSession()];
  expect(session).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  const stream = await Stream.create(server.url, { contentType: "application/json" });
  const bytes = await Stream.create(server.url, { contentType: "application/octet-stream" });
  await stream.append('"before"');
  for (const id of [session, other]) {
    for (const source of [stream, bytes]) {
      expect((await subscribe(id, source.name)).status).toBe(204);
      expect((await subscribe(id, source.name)).status).toBe(204);
    }
  }
  const offsets = [];
  for (const body of ['{"a":1}', "[2,3]", "[[4]]"]) {
    offsets.push((await stream.append(body)).offset);
  }
  const last = (await bytes.append(Buffer.from([0, 255]))).offset;
  for (const id of [session, other]) {
    const found = await envelopes(id, 4);
    expect(found.filter((each) => each.stream === stream.name)).toEqual([
      { stream: stream.name, offset: offsets[0], type: "data", payload: { a: 1 } },
      { stream: stream.name, offset: offsets[1], type: "data", payload: [2, 3], messages: 2 },
      { stream: stream.name, offset: offsets[2], type: "data", payload: [4] },
    ]);
    expect(found.filter((each) => each.stream === bytes.name)).toEqual([
      { stream: bytes.name, offset: last, type: "data", payload: "AP8=", encoding: "base64" },
    ]);
    const listed = await ask("GET", `/v1/subscriptions/${id}`);
    expect(listed.headers["cache-control"]).toBe("no-store");
    expect(listed.json()).toEqual([stream.name, bytes.name].sort());
    const described = (await ask("GET", `/v1/sessions/${id}`)).json();
    expect(described).toMatchObject({ sessionId: id, subscriptionCount: 2 });
    expect(described.expiresAt - described.createdAt).toBeGreaterThanOrEqual(86_400_000);
  }
});

test("a live reader of the session gets what is appended to its streams", async () => {
  const session = await createSession();
  const stream = await Stream.create(server.url, { contentType: "application/json" });
  expect((await subscribe(session, stream.name)).status).toBe(204);
  const waiting = streamOf(session).request("GET", { query: "?offset=-1&live=long-poll" });
  await sleep(200);
  await stream.append("[7]");
  const answer = await waiting;
  expect(answer.status).toBe(200);
  expect(answer.json()[0].payload).toBe(7);
});

test("a subscription from an offset has no gap, also across segments in the cold tier", async () => {
  const session = await createSession();
  const stream = await Stream.create(server.url, { contentType: "application/json" });
  for (const number of numbers(0, 30)) await stream.append(String(number));
  await sleep(1_500);
  expect((await subscribe(session, stream.name, "-1")).status).toBe(204);
  for (const number of numbers(30, 50)) await stream.append(String(number));
  const found = await envelopes(session, 50);
  expect(found.map((each) => each.payload)).toEqual(numbers(0, 50));
  // What has arrived does not arrive again.
  expect((await unsubscribe(session, stream.name)).status).toBe(204);
  expect((await subscribe(session, stream.name, firstOffset)).status).toBe(204);
  await stream.append("50");
  const all = await envelopes(session, 51);
  expect(all.map((each) => each.payload)).toEqual(numbers(0, 51));
});

test("envelopes of many writers arrive once and in the order of each stream", async () => {
  const session = await createSession();
  const streams = [];
  for (let count = 0; count < 5; count++) {
    streams.push(await Stream.create(server.url, { contentType: "application/json" }));
  }
  for (const { name } of streams) expect((await subscribe(session, name)).status).toBe(204);
  const write = async (stream) => {
    const offsets = [];
    for (const number of numbers(0, 40)) {
      offsets.push((await stream.append(String(number))).offset);
    }
    return offsets;
  };
  const written = await Promise.all(streams.map(write));
  const found = await envelopes(session, 200, 30_000);
  expect(found.length).toBe(200);
  streams.forEach((stream, index) => {
    const own = found.filter((each) => each.stream === stream.name);
    expect(own.map((each) => each.payload)).toEqual(numbers(0, 40));
    expect(own.map((each) => each.offset)).toEqual(written[index]);
  });
});

test("only the server writes the streams of sessions", async () => {
  const session = await createSession();
  const stream = streamOf(session);
  for (const method of ["PUT", "POST", "DELETE"]) {
    const answer = await stream.request(method, { headers: json, body: "[1]" });
    expect(answer.status).toBe(403);
  }
  expect(await envelopes(session, 0)).toEqual([]);
  const fork = await request(server.url, `/v1/stream/${freshName()}`, {
    method: "PUT",
    headers: { "Stream-Forked-From": stream.path },
  });
  expect(fork.status).toBe(403);
  for (const name of ["X-Session-Call", "x-session-call"]) {
    const forged = await request(server.url, stream.path, {
      method: "PATCH",
      headers: { [name]: '"delete"' },
    });
    expect(forged.status).toBe(405);
  }
  expect((await ask("GET", `/v1/sessions/${session}`)).status).toBe(200);
});

test("bad requests get a reason", async () => {
  const session = await createSession();
  const stream = await Stream.create(server.url, { contentType: "text/plain" });
  await stream.append("ab");
  const post = (body) => request(server.url, "/v1/subscriptions", { method: "POST", body });
  for (const [answer, status, code] of [
    [await post(""), 400, "INVALID_REQUEST"],
    [await post("{"), 400, "INVALID_REQUEST"],
    [await post('{"sessionId":"","streamId":""}'), 400, "INVALID_REQUEST"],
    [await post("x".repeat(20_000)), 413, "body_too_large"],
    [await subscribe("x", stream.name), 404, "session_not_found"],
    [await subscribe(unknown, stream.name), 404, "session_not_found"],
    [await subscribe(session, freshName()), 404, "stream_not_found"],
    [await subscribe(session, `subscriptions/${session}`), 400, "INVALID_REQUEST"],
    [await subscribe(session, "__ds/subscriptions/x"), 404, "reserved"],
    [await subscribe(session, stream.name, "x"), 400, "INVALID_REQUEST"],
    [await subscribe(session, stream.name, firstOffset.replace(/0$/, "1")), 400, "INVALID_REQUEST"],
    [await unsubscribe(unknown, stream.name), 404, "session_not_found"],
    [await ask("GET", `/v1/subscriptions/${unknown}`), 404, "session_not_found"],
    [await ask("GET", `/v1/sessions/${unknown}`), 404, "session_not_found"],
    [await ask("DELETE", `/v1/sessions/${unknown}`), 404, "session_not_found"],
    [await ask("PUT", "/v1/sessions"), 405, "method_not_allowed"],
    [await ask("POST", "/v1/sessions/x/y"), 404, "not_found"],
  ]) {
    expect([answer.status, answer.json().error.code]).toEqual([status, code]);
    expect(answer.headers["cache-control"]).toBe("no-store");
  }
  expect((await unsubscribe(session, stream.name)).status).toBe(204);
  const preflight = await request(server.url, "/v1/sessions", {
    method: "OPTIONS",
    headers: { Origin: "https://a.example", "Access-Control-Request-Method": "POST" },
  });
  expect(preflight.status).toBe(204);
  expect(preflight.headers["access-control-allow-origin"]).toBe("*");
});

test("both sides forget a subscription that ends", async () => {
  const session = await createSession();
  const [kept, gone] = [
    await Stream.create(server.url, { contentType: "application/json" }),
    await Stream.create(server.url, { contentType: "application/json" }),
  ];
  for (const { name } of [kept, gone]) expect((await subscribe(session, name)).status).toBe(204);
  expect((await gone.delete()).status).toBe(204);
  const deadline = Date.now() + 10_000;
  const listed = async () => (await ask("GET", `/v1/subscriptions/${session}`)).json();
  while ((await listed()).length > 1 && Date.now() < deadline) await sleep(20);
  expect(await listed()).toEqual([kept.name]);
  expect((await ask("DELETE", `/v1/sessions/${session}`)).status).toBe(204);
  expect((await ask("GET", `/v1/sessions/${session}`)).status).toBe(404);
  expect((await streamOf(session).request("GET", { query: "?offset=-1" })).status).toBe(404);
  expect((await kept.append("1")).status).toBe(204);
});
