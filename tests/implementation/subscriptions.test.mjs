// Subscriptions (protocol 6 and 7) beyond the conformance suite: what happens when receivers and
// workers fail, when streams come and go, and what an append costs.

import { createPrivateKey, createPublicKey, verify } from "node:crypto";
import { rm } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually, request, sleep } from "../harness/http.mjs";
import { Receiver } from "../harness/receiver.mjs";
import { scratchDirectory, startServer } from "../harness/server.mjs";
import { announced } from "../harness/settled.mjs";
import { freshName, Stream } from "../harness/stream.mjs";

const control = "/v1/stream/__ds";
const json = { "Content-Type": "application/json" };

let server;
/** @type {Receiver} */
let receiver;

beforeAll(async () => {
  receiver = await Receiver.start();
  server = await startServer({ cold: "directory", env: { WEBHOOK_ALLOW_LOOPBACK: "1" } });
});
afterAll(async () => {
  await server?.stop();
  await receiver?.stop();
});

const ask = (path, options) => request(server.url, control + path, options);
const send = (method, path, body, headers) =>
  ask(path, {
    method,
    headers: { ...json, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
const bearer = (token) => ({ Authorization: `Bearer ${token}` });

/** A subscription of the test. */
class Subscription {
  constructor(id = freshName("sub")) {
    this.id = id;
    this.path = `/subscriptions/${id}`;
  }
  static async create(body, id) {
    const subscription = new Subscription(id);
    const answer = await subscription.put(body);
    if (answer.status !== 201) throw new Error(`PUT answered ${answer.status}: ${answer.text}`);
    return subscription;
  }
  put(body) {
    return send("PUT", this.path, body);
  }
  async get() {
    return (await ask(this.path)).json();
  }
  delete() {
    return ask(this.path, { method: "DELETE" });
  }
  post(action, body, token) {
    return send("POST", `${this.path}/${action}`, body, token && bearer(token));
  }
  async acked(stream) {
    const { streams } = await this.get();
    return streams.find(({ path }) => path === stream)?.acked_offset;
  }
  untilFailed() {
    return eventually("the failure is noted", async () => (await this.get()).status === "failed");
  }
  async untilAcked(stream, offset) {
    for (let tries = 0; tries < 600; tries += 1) {
      if ((await this.acked(stream)) === offset) return;
      await sleep(50);
    }
    throw new Error(`${stream} stays at ${await this.acked(stream)}, not ${offset}`);
  }
}

const webhook = (pattern, more = {}) => ({
  type: "webhook",
  pattern,
  webhook: { url: `${receiver.url}/hook` },
  ...more,
});

async function jsonStream(name, body = "[]") {
  const stream = new Stream(server.url, name, "application/json");
  expect((await stream.put({ body })).status).toBe(201);
  return stream;
}

async function pullWake(more = {}) {
  const wakes = await jsonStream(freshName("wakes"));
  const source = await jsonStream(freshName("source"));
  const body = { type: "pull-wake", streams: [source.name], wake_stream: wakes.name, ...more };
  const subscription = await Subscription.create(body);
  return { subscription, source, wakes, body };
}

test("a webhook is signed, and its signature verifies with the published key", async () => {
  const root = freshName("signed");
  const subscription = await Subscription.create(webhook(`${root}/*`));
  const stream = await jsonStream(`${root}/a`, "[1]");
  const { headers, text, body } = await receiver.until(subscription.id, 1);
  expect(body.streams).toEqual([
    {
      path: stream.name,
      link_type: "glob",
      acked_offset: "-1",
      tail_offset: (await stream.head()).offset,
      has_pending: true,
    },
  ]);
  const parts = Object.fromEntries(
    headers["webhook-signature"].split(",").map((part) => part.split(/=(.*)/s, 2)),
  );
  expect(Math.abs(Date.now() / 1_000 - Number(parts.t))).toBeLessThan(60);
  const published = await ask("/jwks.json");
  expect(published.headers["content-type"]).toBe("application/jwk-set+json");
  expect(published.headers["cache-control"]).toBe("public, max-age=300");
  const { keys } = published.json();
  const jwk = keys.find(({ kid }) => kid === parts.kid);
  expect(jwk).toMatchObject({ kty: "OKP", crv: "Ed25519", use: "sig", alg: "EdDSA" });
  expect(jwk.d).toBeUndefined();
  const key = createPublicKey({ key: jwk, format: "jwk" });
  const signature = Buffer.from(parts.ed25519, "base64url");
  expect(verify(null, Buffer.from(`${parts.t}.${text}`), key, signature)).toBe(true);
  expect(verify(null, Buffer.from(`${parts.t}.${text} `), key, signature)).toBe(false);
  await subscription.untilAcked(stream.name, (await stream.head()).offset);
  await subscription.delete();
});

test("the operator's key signs and is published, and a later one follows it", async () => {
  const seeds = [1, 2].map((byte) => Buffer.alloc(32, byte));
  // PKCS #8 for Ed25519 (RFC 8410): the seed comes last.
  const head = Buffer.from("302e020100300506032b657004220420", "hex");
  const publicKeys = seeds.map((seed) => {
    const key = Buffer.concat([head, seed]);
    return createPublicKey(createPrivateKey({ key, format: "der", type: "pkcs8" }));
  });
  const [first, second] = publicKeys.map((key) => key.export({ format: "jwk" }).x);
  const dataDirectory = await scratchDirectory("signing-key");
  const start = (seed) =>
    startServer({
      dataDirectory,
      env: {
        WEBHOOK_ALLOW_LOOPBACK: "1",
        WEBHOOK_SIGNING_KEY: seed.toString("base64url"),
      },
    });
  let own = await start(seeds[0]);
  try {
    const put = (id, body) =>
      request(own.url, `${control}/subscriptions/${id}`, {
        method: "PUT",
        headers: json,
        body: JSON.stringify(body),
      });
    const published = async () => {
      const { keys } = (await request(own.url, `${control}/jwks.json`)).json();
      return keys.map(({ x }) => x);
    };
    const root = freshName("given");
    const id = freshName("sub");
    const created = await put(id, webhook(`${root}/*`));
    expect(created.status, created.text).toBe(201);
    expect(await published()).toEqual([first]);
    const signedBy = async (count, key) => {
      const stream = new Stream(own.url, `${root}/${count}`, "application/json");
      expect((await stream.put({ body: "[1]" })).status).toBe(201);
      const { headers, text } = await receiver.until(id, count);
      const [, time, signature] = /^t=(\d+),kid=.*,ed25519=(.*)$/.exec(
        headers["webhook-signature"],
      );
      const message = Buffer.from(`${time}.${text}`);
      expect(verify(null, message, key, Buffer.from(signature, "base64url"))).toBe(true);
    };
    await signedBy(1, publicKeys[0]);

    // Receivers may have the former set for a while, so the former key signs on.
    await own.stop();
    own = await start(seeds[1]);
    expect(await published()).toEqual([first, second]);
    await signedBy(2, publicKeys[0]);

    const { output } = own;
    const shown = [
      output(),
      ...(await Promise.all(
        ["/health", "/metrics", `${control}/jwks.json`, `${control}/subscriptions/${id}`].map(
          async (path) => (await request(own.url, path)).text,
        ),
      )),
    ];
    for (const seed of seeds)
      for (const text of shown) expect(text).not.toContain(seed.toString("base64url"));
  } finally {
    await own.stop();
    await rm(dataDirectory, { recursive: true, force: true });
  }
});

test("what was appended before the subscription wakes nobody", async () => {
  const root = freshName("old");
  const old = await jsonStream(`${root}/old`, "[1,2]");
  // A stream that the directory does not list yet would count as created later.
  await announced(old);
  const subscription = await Subscription.create(webhook(`${root}/**`));
  await subscription.untilAcked(old.name, (await old.head()).offset);
  await sleep(500);
  expect(receiver.of(subscription.id)).toEqual([]);
  await old.append("3");
  const { body } = await receiver.until(subscription.id, 1);
  expect(body.streams[0]).toMatchObject({ path: old.name, has_pending: true });
  await subscription.delete();
});

test("a failed delivery is retried after pauses that grow, and the status says so", async () => {
  const root = freshName("failing");
  let failures = 2;
  receiver.answer = (delivery) => {
    if (!delivery.body.streams[0].path.startsWith(root)) return { status: 200, body: "" };
    failures -= 1;
    return failures >= 0 ? { status: 500, body: "no" } : { status: 200, body: '{"done":true}' };
  };
  const subscription = await Subscription.create(webhook(`${root}/*`, { lease_ttl_ms: 20_000 }));
  const stream = await jsonStream(`${root}/a`, "[1]");
  const first = await receiver.until(subscription.id, 1);
  await subscription.untilFailed();
  const second = await receiver.until(subscription.id, 2);
  const third = await receiver.until(subscription.id, 3);
  expect(second.at - first.at).toBeGreaterThan(750);
  expect(third.at - second.at).toBeGreaterThan(1_500);
  // Each attempt has its own signature of the same wake.
  expect(third.body.wake_id).toBe(first.body.wake_id);
  expect(third.headers["webhook-signature"]).not.toBe(first.headers["webhook-signature"]);
  await subscription.untilAcked(stream.name, (await stream.head()).offset);
  expect((await subscription.get()).status).toBe("active");
  receiver.answer = () => ({ status: 200, body: '{"done":true}' });
  await subscription.delete();
});

test("a redirect is a failure, and is not followed", async () => {
  const root = freshName("redirected");
  receiver.answer = ({ path }) =>
    path === "/hook"
      ? { status: 302, headers: { Location: `${receiver.url}/other` } }
      : { status: 200, body: '{"done":true}' };
  const subscription = await Subscription.create(webhook(`${root}/*`));
  await jsonStream(`${root}/a`, "[1]");
  await receiver.until(subscription.id, 1);
  await subscription.untilFailed();
  expect(receiver.deliveries.filter(({ path }) => path === "/other")).toEqual([]);
  receiver.answer = () => ({ status: 200, body: '{"done":true}' });
  await subscription.delete();
});

test("a callback acknowledges, extends the lease, and is fenced afterwards", async () => {
  const root = freshName("callback");
  receiver.answer = () => ({ status: 202, body: "later" });
  const subscription = await Subscription.create(webhook(`${root}/*`, { lease_ttl_ms: 10_000 }));
  const stream = await jsonStream(`${root}/a`, "[1]");
  const { body } = await receiver.until(subscription.id, 1);
  const { wake_id, generation, callback_url, callback_token } = body;
  expect(callback_url).toBe(`${server.url}${control}${subscription.path}/callback`);
  const callback = (more, token = callback_token) =>
    subscription.post("callback", { wake_id, generation, ...more }, token);
  const tail = (await stream.head()).offset;

  expect((await callback({}, "")).json().error.code).toBe("TOKEN_INVALID");
  expect((await callback({}, `${callback_token}x`)).status).toBe(401);
  expect((await callback({ generation: generation + 1 })).json().error.code).toBe("FENCED");
  expect((await callback({ wake_id: "w_other" })).json().error.code).toBe("FENCED");
  for (const ack of [
    { stream: `${root}/other`, offset: tail },
    { stream: stream.name, offset: "-1" },
    { stream: stream.name, offset: "9999999999999999_9999999999999999" },
  ]) {
    const answer = await callback({ acks: [{ stream: stream.name, offset: tail }, ack] });
    expect(answer.json().error.code).toBe("INVALID_OFFSET");
    // All or nothing.
    expect(await subscription.acked(stream.name)).toBe("-1");
  }
  await sleep(6_000);
  expect((await callback({})).json()).toEqual({ ok: true, next_wake: false });
  await sleep(6_000);
  // The lease of 10 s was extended after 6 s.
  expect((await callback({})).status).toBe(200);

  // An event that the delivery did not know of can be acknowledged, too.
  await stream.append("2");
  const later = (await stream.head()).offset;
  const acked = await callback({ acks: [{ stream: stream.name, offset: later }], done: true });
  expect(acked.json()).toEqual({ ok: true, next_wake: false });
  expect(await subscription.acked(stream.name)).toBe(later);
  expect((await callback({ done: true })).json().error.code).toBe("FENCED");
  receiver.answer = () => ({ status: 200, body: '{"done":true}' });
  await subscription.delete();
});

test("a lease that ends makes another wake, and the old token is fenced", async () => {
  const root = freshName("lease");
  receiver.answer = () => ({ status: 200, body: "{}" });
  const subscription = await Subscription.create(webhook(`${root}/*`, { lease_ttl_ms: 1_000 }));
  const stream = await jsonStream(`${root}/a`, "[1]");
  const first = await receiver.until(subscription.id, 1);
  const second = await receiver.until(subscription.id, 2);
  expect(second.body.generation).toBeGreaterThan(first.body.generation);
  expect(second.body.wake_id).not.toBe(first.body.wake_id);
  const { wake_id, generation, callback_token } = first.body;
  const late = await subscription.post(
    "callback",
    { wake_id, generation, done: true },
    callback_token,
  );
  expect(late.json().error.code).toBe("FENCED");
  expect(await subscription.acked(stream.name)).toBe("-1");
  receiver.answer = () => ({ status: 200, body: '{"done":true}' });
  await subscription.delete();
});

test("appends during a wake are offered in the next one", async () => {
  const root = freshName("busy");
  let release;
  const held = new Promise((resolve) => {
    release = resolve;
  });
  receiver.answer = async () => {
    await held;
    return { status: 200, body: '{"done":true}' };
  };
  const subscription = await Subscription.create(webhook(`${root}/*`));
  const stream = await jsonStream(`${root}/a`, "[1]");
  await receiver.until(subscription.id, 1);
  for (let index = 0; index < 20; index += 1) await stream.append(String(index));
  release();
  await subscription.untilAcked(stream.name, (await stream.head()).offset);
  // The second wake knows of the first append at least, and the third one of all.
  expect(receiver.of(subscription.id).length).toBeLessThanOrEqual(3);
  receiver.answer = () => ({ status: 200, body: '{"done":true}' });
  await subscription.delete();
});

test("a worker claims at once after an append, and others see who holds the wake", async () => {
  const { subscription, source, wakes } = await pullWake();
  expect((await subscription.post("claim", { worker: "a" })).json().error.code).toBe(
    "NO_PENDING_WORK",
  );
  for (let round = 1; round <= 10; round += 1) {
    await source.append(String(round));
    const claim = await subscription.post("claim", { worker: "a" });
    expect(claim.status).toBe(200);
    const { wake_id, generation, token, streams } = claim.json();
    expect(generation).toBe(round);
    const busy = (await subscription.post("claim", { worker: "b" })).json().error;
    expect(busy).toMatchObject({ code: "ALREADY_CLAIMED", current_holder: "a", generation });
    const acks = streams.map(({ path, tail_offset }) => ({ stream: path, offset: tail_offset }));
    const ack = await subscription.post("ack", { wake_id, generation, acks, done: true }, token);
    expect(ack.json()).toEqual({ ok: true, next_wake: false });
  }
  // A claim does not wait until the wake stream has the event.
  await eventually("ten wake events", async () => (await wakes.messages()).length >= 10);
  const events = await wakes.messages();
  expect(events.map(({ generation }) => generation)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  expect(events[0]).toMatchObject({ type: "wake", stream: source.name });
  await subscription.delete();
});

test("a wake that is released is offered again, without progress", async () => {
  const { subscription, source, wakes } = await pullWake();
  await source.append("1");
  const { wake_id, generation, token } = (
    await subscription.post("claim", { worker: "a" })
  ).json();
  expect((await subscription.post("release", { wake_id, generation }, token)).status).toBe(204);
  expect((await subscription.post("release", { wake_id, generation }, token)).status).toBe(409);
  const again = (await subscription.post("claim", { worker: "b" })).json();
  expect(again.generation).toBe(generation + 1);
  expect(again.streams[0].has_pending).toBe(true);
  for (let tries = 0; (await wakes.messages()).length < 2 && tries < 600; tries += 1) {
    await sleep(50);
  }
  expect((await wakes.messages()).length).toBe(2);
  await subscription.delete();
});

test("a wake stream that is created late hears of the wake", async () => {
  const source = await jsonStream(freshName("source"));
  const name = freshName("late");
  const body = { type: "pull-wake", streams: [source.name], wake_stream: name };
  const subscription = await Subscription.create(body);
  await source.append("1");
  await subscription.untilFailed();
  const wakes = await jsonStream(name);
  for (let tries = 0; (await wakes.messages()).length < 1 && tries < 600; tries += 1) {
    await sleep(50);
  }
  expect((await wakes.messages())[0]).toMatchObject({ generation: 1, stream: source.name });
  await subscription.delete();
});

test("the same configuration confirms, and another is refused", async () => {
  const { subscription, body } = await pullWake();
  expect((await subscription.put({ ...body, lease_ttl_ms: 30_000 })).status).toBe(200);
  expect((await subscription.put({ ...body, streams: [`/${body.streams[0]}/`] })).status).toBe(200);
  for (const change of [
    { lease_ttl_ms: 30_001 },
    { description: "other" },
    { pattern: "a/*" },
    { streams: [...body.streams, "x"] },
    { wake_stream: "other" },
  ]) {
    const answer = await subscription.put({ ...body, ...change });
    expect(answer.json().error.code).toBe("SUBSCRIPTION_ALREADY_EXISTS");
  }
  expect((await subscription.delete()).status).toBe(204);
  expect((await subscription.delete()).status).toBe(204);
  expect((await ask(subscription.path)).json().error.code).toBe("SUBSCRIPTION_NOT_FOUND");
});

test("a subscription that is created anew continues the generations", async () => {
  const { subscription, source, body } = await pullWake();
  await source.append("1");
  const before = (await subscription.post("claim", { worker: "a" })).json();
  await subscription.delete();
  const late = { wake_id: before.wake_id, generation: before.generation, done: true };
  expect((await subscription.post("ack", late, before.token)).status).toBe(404);
  expect((await subscription.put(body)).status).toBe(201);
  expect((await subscription.post("ack", late, before.token)).status).toBe(401);
  await source.append("2");
  const after = (await subscription.post("claim", { worker: "a" })).json();
  expect(after.generation).toBeGreaterThan(before.generation);
  expect((await subscription.post("ack", late, before.token)).status).toBe(401);
  await subscription.delete();
});

test("streams are added and removed, with every spelling of their path", async () => {
  const { subscription } = await pullWake();
  const stream = await jsonStream(`${freshName("member")}/a b`.replace(" ", "%20"));
  expect((await subscription.post("streams", { streams: [stream.name] })).status).toBe(204);
  expect((await subscription.post("streams", { streams: [stream.name] })).status).toBe(204);
  expect(await subscription.acked(stream.name)).toBe((await stream.head()).offset);
  const encoded = encodeURIComponent(decodeURIComponent(stream.name));
  const remove = (path) => ask(`${subscription.path}/streams/${path}`, { method: "DELETE" });
  expect((await remove(encoded)).status).toBe(204);
  expect(await subscription.acked(stream.name)).toBeUndefined();
  expect((await remove(encoded)).status).toBe(204);
  await stream.append("1");
  await sleep(200);
  expect((await subscription.post("claim", { worker: "a" })).status).toBe(409);
  await subscription.delete();
});

test("a stream that is created anew is followed from its start", async () => {
  const root = freshName("anew");
  const subscription = await Subscription.create(webhook(`${root}/*`));
  const stream = await jsonStream(`${root}/a`, "[1,2,3]");
  await receiver.until(subscription.id, 1);
  await subscription.untilAcked(stream.name, (await stream.head()).offset);
  expect((await stream.delete()).status).toBe(204);
  for (let tries = 0; (await subscription.get()).streams.length > 0 && tries < 600; tries += 1) {
    await sleep(50);
  }
  expect((await subscription.get()).streams).toEqual([]);
  await jsonStream(stream.name, "[4]");
  const { body } = await receiver.until(subscription.id, 2);
  expect(body.streams[0]).toMatchObject({ path: stream.name, has_pending: true });
  await subscription.untilAcked(stream.name, (await stream.head()).offset);
  await subscription.delete();
});

test("bad requests are refused with a reason", async () => {
  const put = async (body) => (await new Subscription().put(body)).json().error;
  const pull = { type: "pull-wake", wake_stream: "w", streams: ["a"] };
  for (const body of [
    null,
    {},
    { type: "push", streams: ["a"] },
    { type: "pull-wake", wake_stream: "w" },
    { type: "pull-wake", wake_stream: "w", streams: [], pattern: "" },
    { type: "pull-wake", streams: ["a"] },
    { ...pull, wake_stream: "__registry__" },
    { ...pull, streams: ["__ds/keys"] },
    { ...pull, streams: [""] },
    { ...pull, streams: [7] },
    { ...pull, lease_ttl_ms: 999 },
    { ...pull, lease_ttl_ms: 600_001 },
    { ...pull, lease_ttl_ms: 1.5 },
    { ...pull, pattern: "a".repeat(2_000) },
    { ...pull, pattern: "**/a/**/a/**/a/**/a/**/a" },
    { type: "webhook", streams: ["a"] },
  ]) {
    expect(await put(body), JSON.stringify(body)).toMatchObject({ code: "INVALID_REQUEST" });
  }
  for (const url of [
    "http://10.0.0.1/hook",
    "http://example.com/hook",
    "https://169.254.169.254/latest",
    "https://[::ffff:10.0.0.1]/",
    "https://2130706433/",
    "https://user@example.com/",
    `${server.url}/v1/stream/a`,
    "ftp://example.com/",
    "not a url",
  ]) {
    const error = await put({ type: "webhook", streams: ["a"], webhook: { url } });
    expect(error, url).toMatchObject({ code: "WEBHOOK_URL_REJECTED" });
  }
  for (const [method, path, status] of [
    ["GET", "", 404],
    ["GET", "/other", 404],
    ["GET", "/keys", 404],
    ["PATCH", "/keys", 404],
    ["GET", "/subscriptions", 404],
    ["GET", "/subscriptions/%zz", 400],
    ["POST", "/subscriptions/x", 405],
    ["GET", "/subscriptions/x/claim", 405],
    ["PUT", "/jwks.json", 405],
    ["POST", "/subscriptions/x/other", 404],
  ]) {
    const answer = await ask(path, { method });
    expect(answer.status, `${method} ${path}`).toBe(status);
    expect(answer.headers["cache-control"]).toMatch(/no-store/);
  }
});

test("internal headers of a client reach no subscription", async () => {
  const { subscription } = await pullWake();
  const notify = JSON.stringify({ stream: "a", subscription: "0", told: null, present: null });
  for (const name of ["X-Control-Call", "X-Link-Call"]) {
    for (const method of ["PATCH", "POST"]) {
      const answer = await ask(subscription.path, { method, headers: { [name]: notify } });
      expect(answer.status).toBe(405);
    }
  }
  await subscription.delete();
});
