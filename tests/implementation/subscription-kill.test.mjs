// The server is killed repeatedly while it delivers webhooks and workers claim wakes. Every event
// must be offered until it is acknowledged, and not any more afterwards. SUBSCRIPTION_KILLS says
// how often it is killed.

import http from "node:http";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { eventually, request, sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { firstOffset, producer, Stream } from "../harness/stream.mjs";

const rounds = Number(process.env.SUBSCRIPTION_KILLS || 6);
const streamCount = 6;
// So short that leases also end without a kill.
const leaseMs = 2_000;
// An interrupted notification is sent again by an alarm after a minute.
const quietMs = 150_000;
const env = {
  WEBHOOK_ALLOW_LOOPBACK: "1",
  RETRY_MIN_MS: 50,
  RETRY_MAX_MS: 500,
  REPLY_TIMEOUT_MS: 1_500,
};
const control = "/v1/stream/__ds/subscriptions/";
const headers = { "Content-Type": "application/json" };

const range = (count) => Array.from({ length: count }, (_, index) => index);
const later = (offset, other) => (other === undefined || offset > other ? offset : other);
// Sorts before every offset, as the protocol's "-1" does.
const beginning = "-1";

/** What the test has seen of everything, and counts for the summary. */
class Observer {
  violations = [];
  counts = {
    appends: 0,
    deliveries: 0,
    repeated: 0,
    claims: 0,
    accepted: 0,
    fencedLate: 0,
    fencedChecks: 0,
  };

  check(holds, what) {
    if (!holds) this.violations.push(what);
  }
}

/** What is known of one subscription, over all restarts. */
class Ledger {
  generation = 0;
  /** Wakes by their generation: { id, token, attempts, endedAt }. */
  wakes = new Map();
  /** What was acknowledged under earlier generations, by stream. */
  settled = new Map();
  /** What was acknowledged under any generation. */
  acknowledged = new Map();
  /** How far the cursors may be: what was acknowledged, or may have been. */
  admitted = new Map();
  #recent = [];

  constructor(observer, id, body) {
    this.observer = observer;
    this.id = id;
    this.body = body;
    this.isWebhook = body.type === "webhook";
  }

  /** Takes a delivery or a claim, which says how the subscription was when its wake began. */
  offered({ wake_id, generation, streams }, token) {
    const { observer } = this;
    const what = `${this.id}, generation ${generation}`;
    observer.check(generation >= this.generation, `${what}: after ${this.generation}`);
    const wake = this.wakes.get(generation) ?? { id: wake_id, token, attempts: 0 };
    observer.check(wake.id === wake_id, `${what}: wake ${wake.id} became ${wake_id}`);
    // A delivery can be on its way while another one of the same wake ends it.
    const isOver = performance.now() - wake.endedAt > 5_000;
    observer.check(!isOver, `${what}: the wake had ended`);
    wake.attempts += 1;
    this.wakes.set(generation, wake);
    if (generation > this.generation) this.#settle(generation);
    observer.check(
      streams.some(({ has_pending }) => has_pending),
      `${what}: nothing is pending`,
    );
    for (const { path, acked_offset, tail_offset, has_pending } of streams) {
      const place = `${what}: ${path} at ${acked_offset}`;
      observer.check(has_pending === tail_offset > acked_offset, `${place}, tail ${tail_offset}`);
      const settled = this.settled.get(path) ?? beginning;
      observer.check(acked_offset >= settled, `${place} was acknowledged up to ${settled}`);
      this.#inBounds(path, acked_offset);
    }
    return wake;
  }

  #settle(generation) {
    this.generation = generation;
    const isEarlier = (entry) => entry.generation < generation;
    for (const { stream, offset } of this.#recent.filter(isEarlier))
      this.settled.set(stream, later(offset, this.settled.get(stream)));
    this.#recent = this.#recent.filter((entry) => !isEarlier(entry));
  }

  #inBounds(stream, acked) {
    const most = this.admitted.get(stream) ?? firstOffset;
    this.observer.check(acked <= most, `${this.id}: ${stream} is at ${acked}, not ${most}`);
  }

  /** Notes offsets that the server may acknowledge from now on. */
  admits(acks) {
    for (const { stream, offset } of acks)
      this.admitted.set(stream, later(offset, this.admitted.get(stream)));
  }

  /** Notes offsets that the server has acknowledged. */
  accepted(generation, acks) {
    for (const { stream, offset } of acks) {
      this.#recent.push({ generation, stream, offset });
      this.acknowledged.set(stream, later(offset, this.acknowledged.get(stream)));
    }
    this.#settle(this.generation);
  }

  /** Returns the cursors, which never go back, and checks them. */
  async cursors(base) {
    const before = new Map(this.acknowledged);
    const answer = await request(base, control + this.id);
    expect(answer.status, answer.text).toBe(200);
    const { streams } = answer.json();
    const cursors = new Map(streams.map(({ path, acked_offset }) => [path, acked_offset]));
    for (const [stream, offset] of before)
      this.observer.check(
        cursors.get(stream) >= offset,
        `${this.id}: ${stream} went back from ${offset} to ${cursors.get(stream)}`,
      );
    for (const [stream, offset] of cursors) {
      this.#inBounds(stream, offset);
      if (offset !== beginning)
        this.acknowledged.set(stream, later(offset, this.acknowledged.get(stream)));
    }
    return cursors;
  }

  post(base, action, body, token) {
    return request(base, `${control}${this.id}/${action}`, {
      method: "POST",
      headers: { ...headers, ...(token && { Authorization: `Bearer ${token}` }) },
      body: JSON.stringify(body),
      timeoutMs: 10_000,
    }).catch(() => undefined);
  }

  /**
   * Acknowledges what a wake has offered in two requests, of which the second ends it. A request
   * without an answer is the last one.
   */
  async work(base, { wake_id, generation, streams }, wake) {
    const pending = streams.filter(({ has_pending }) => has_pending);
    const acks = pending.map(({ path, tail_offset }) => ({ stream: path, offset: tail_offset }));
    const cut = Math.floor(Math.random() * (acks.length + 1));
    const action = this.isWebhook ? "callback" : "ack";
    for (const part of [{ acks: acks.slice(0, cut) }, { acks: acks.slice(cut), done: true }]) {
      await sleep(Math.random() * 30);
      this.admits(part.acks);
      const answer = await this.post(base(), action, { wake_id, generation, ...part }, wake.token);
      if (!answer) return;
      if (answer.status !== 200) return this.#refused(answer, generation, wake);
      this.observer.counts.accepted += 1;
      if (part.done) wake.endedAt = performance.now();
      this.accepted(generation, part.acks);
    }
  }

  /** A request of a wake may come too late, or another delivery of the same wake was faster. */
  #refused(answer, generation, wake) {
    const { code } = answer.json().error;
    const isOvertaken = code === "INVALID_OFFSET" && wake.attempts > 1;
    this.observer.check(
      (answer.status === 409 && code === "FENCED") || isOvertaken,
      `${this.id}, generation ${generation}: ${answer.status} ${answer.text}`,
    );
    this.observer.counts.fencedLate += 1;
  }

  /** Sends requests of wakes that are over. They must be refused. */
  async fence(base) {
    const isOver = ([generation, { endedAt }]) => endedAt || generation < this.generation;
    const over = [...this.wakes].filter(isOver);
    for (const [generation, wake] of [over.at(0), over.at(-1)].filter(Boolean)) {
      const acks = [...this.admitted].map(([stream, offset]) => ({ stream, offset }));
      const actions = this.isWebhook ? ["callback"] : ["ack", "release"];
      for (const action of actions) {
        const late = { wake_id: wake.id, generation, ...(action !== "release" && { acks }) };
        const answer = await this.post(base, action, { ...late, done: true }, wake.token);
        expect(answer?.json().error?.code, `${this.id}: ${answer?.text}`).toBe("FENCED");
        this.observer.counts.fencedChecks += 1;
      }
    }
  }
}

/** Takes the webhooks of all subscriptions, and answers like a receiver that sometimes fails. */
class Receiver {
  static async start(observer, base) {
    const receiver = new Receiver();
    receiver.observer = observer;
    receiver.base = base;
    receiver.ledgers = new Map();
    receiver.server = http.createServer(async (incoming, outgoing) => {
      outgoing.on("error", () => {});
      const pieces = [];
      try {
        for await (const piece of incoming) pieces.push(piece);
      } catch {
        // The server was killed while it sent this.
        return;
      }
      const { status, body } = await receiver.#take(JSON.parse(Buffer.concat(pieces).toString()));
      outgoing.writeHead(status).end(body);
    });
    await new Promise((resolve) => receiver.server.listen(0, "127.0.0.1", resolve));
    receiver.url = `http://127.0.0.1:${receiver.server.address().port}/hook`;
    return receiver;
  }

  async #take(delivery) {
    const ledger = this.ledgers.get(delivery.subscription_id);
    const wake = ledger.offered(delivery, delivery.callback_token);
    this.observer.counts.deliveries += 1;
    this.observer.counts.repeated += wake.attempts > 1 ? 1 : 0;
    const done = () => {
      const tails = delivery.streams.map(({ path, tail_offset }) => [path, tail_offset]);
      ledger.admits(tails.map(([stream, offset]) => ({ stream, offset })));
      return { status: 200, body: '{"done":true}' };
    };
    const way = Math.random();
    if (way < 0.05) return { status: 500, body: "no" };
    // The lease ends.
    if (way < 0.1) return { status: 200, body: "{}" };
    if (way < 0.15) {
      await sleep(leaseMs + 200);
      return done();
    }
    if (way < 0.4) {
      ledger.work(this.base, delivery, wake);
      return { status: 202, body: "" };
    }
    if (way < 0.5) {
      await ledger.work(this.base, delivery, wake);
      return { status: 200, body: "{}" };
    }
    await sleep(Math.random() * 60);
    return done();
  }

  stop() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }
}

/** A worker of a pull-wake subscription. One that only listens claims after an event. */
class Worker {
  #heard = 0;

  constructor(ledger, name, wakes, onlyListens) {
    Object.assign(this, { ledger, name, wakes, onlyListens });
  }

  async run(base, stopped) {
    const { ledger } = this;
    while (!stopped()) {
      await sleep(Math.random() * 50);
      if (this.onlyListens && !(await this.#hears(base()))) continue;
      const before = ledger.generation;
      const answer = await ledger.post(base(), "claim", { worker: this.name });
      if (!answer) continue;
      if (answer.status !== 200) {
        const { code } = answer.json().error ?? {};
        const isBusy = ["ALREADY_CLAIMED", "NO_PENDING_WORK"].includes(code);
        ledger.observer.check(isBusy, `${ledger.id}: ${answer.status} ${answer.text}`);
        continue;
      }
      const claim = answer.json();
      const what = `${ledger.id}: claimed ${claim.generation}`;
      ledger.observer.check(claim.generation > before, `${what} after ${before}`);
      ledger.observer.check(!ledger.wakes.has(claim.generation), `${what} twice`);
      const wake = ledger.offered(claim, claim.token);
      ledger.observer.counts.claims += 1;
      const way = Math.random();
      if (way < 0.05) continue;
      if (way < 0.1) {
        const { wake_id, generation } = claim;
        const released = await ledger.post(base(), "release", { wake_id, generation }, claim.token);
        if (released?.status === 204) wake.endedAt = performance.now();
        continue;
      }
      await ledger.work(base, claim, wake);
    }
  }

  /** Returns whether the wake stream has an event that this worker has not acted on. */
  async #hears(base) {
    const events = await new Stream(base, this.wakes, "application/json")
      .messages()
      .catch(() => []);
    const last = events.at(-1)?.generation ?? 0;
    const isNew = last > this.#heard;
    this.#heard = Math.max(last, this.#heard);
    return isNew;
  }
}

/** A producer that sends one event after the other, and repeats an event without an answer. */
class Writer {
  count = 0;
  /** The last offset that was answered. */
  offset = beginning;

  constructor(observer, name) {
    this.observer = observer;
    this.name = name;
  }

  /** Returns whether the event was stored. */
  async append(base) {
    const stream = new Stream(base, this.name, "application/json");
    const stamp = producer(this.name, 0, this.count);
    const answer = await stream
      .append(`[${this.count}]`, stamp, { timeoutMs: 10_000 })
      .catch(() => undefined);
    if (!answer) return false;
    this.observer.check([200, 204].includes(answer.status), `${this.name}: ${answer.text}`);
    this.count += 1;
    this.observer.counts.appends += 1;
    this.offset = later(answer.offset, this.offset);
    return true;
  }

  async write(base, stopped) {
    while (!stopped()) {
      // Long pauses leave the subscriptions idle.
      await sleep(Math.random() < 0.1 ? Math.random() * 500 : Math.random() * 20);
      if (stopped() || !(await this.append(base))) return;
    }
  }
}

/** Creates a stream with an event, and repeats that without an answer. */
async function create(base, name) {
  const stream = new Stream(base, name, "application/json");
  const answer = await stream.put({ body: '["first"]' }).catch(() => undefined);
  if (answer) expect([200, 201], answer.text).toContain(answer.status);
  return answer !== undefined;
}

test(`no wake is lost over ${rounds} kills during deliveries`, async () => {
  const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-wakes-"));
  const observer = new Observer();
  let server = await startServer({ dataDirectory, env });
  const base = () => server.url;
  const receiver = await Receiver.start(observer, base);
  const names = range(streamCount).map((index) => `events/${index}`);
  const writers = names.map((name) => new Writer(observer, name));
  const created = [];
  const uncertain = [];
  const hook = { type: "webhook", lease_ttl_ms: leaseMs, webhook: { url: receiver.url } };
  const pull = { type: "pull-wake", lease_ttl_ms: leaseMs };
  const ledgers = [
    new Ledger(observer, "pattern", { ...hook, pattern: "events/*" }),
    new Ledger(observer, "deep", { ...hook, pattern: "events/**" }),
    new Ledger(observer, "named", { ...hook, streams: names.slice(0, 3) }),
    new Ledger(observer, "single", { ...hook, streams: [names[0]] }),
    new Ledger(observer, "pull", { ...pull, pattern: "events/*", wake_stream: "wakes/1" }),
    new Ledger(observer, "pull-named", { ...pull, streams: names, wake_stream: "wakes/2" }),
  ];
  for (const ledger of ledgers) receiver.ledgers.set(ledger.id, ledger);
  const pulling = ledgers.filter(({ isWebhook }) => !isWebhook);
  const workers = (kinds) =>
    pulling.flatMap((ledger) =>
      kinds.map((onlyListens) => {
        const name = `${ledger.id}-${onlyListens}`;
        return new Worker(ledger, name, ledger.body.wake_stream, onlyListens);
      }),
    );
  const noViolation = () => expect(observer.violations).toEqual([]);

  try {
    for (const { body } of pulling) {
      const wakes = new Stream(server.url, body.wake_stream, "application/json");
      expect((await wakes.put()).status).toBe(201);
    }
    for (const { id, body } of ledgers) {
      const put = { method: "PUT", headers, body: JSON.stringify(body) };
      const answer = await request(server.url, control + id, put);
      expect(answer.status, answer.text).toBe(201);
    }
    for (const name of names) {
      const stream = new Stream(server.url, name, "application/json");
      expect((await stream.put()).status).toBe(201);
    }

    const pulls = workers([true, false]);
    for (let round = 0; round < rounds; round += 1) {
      let stopped = false;
      const url = server.url;
      const active = [
        ...writers.map((writer) => writer.write(url, () => stopped)),
        ...pulls.map((worker) => worker.run(base, () => stopped)),
      ];
      const name = `events/of-round-${round}`;
      const lifeMs = 200 + Math.random() * 2_500;
      const creating = sleep(Math.random() * lifeMs).then(() => create(url, name));
      await sleep(lifeMs);
      await server.kill();
      stopped = true;
      await Promise.all(active);
      const isCreated = await creating;
      server = await startServer({ dataDirectory, env });
      // What was acknowledged is still acknowledged, and what is over stays over.
      for (const ledger of ledgers) await ledger.cursors(server.url);
      for (const ledger of ledgers) await ledger.fence(server.url);
      noViolation();
      // After the last kill, the streams are left alone until they have woken everybody.
      const isLast = round === rounds - 1;
      (isCreated ? created : uncertain).push(name);
      if (isLast) break;
      for (const each of uncertain.splice(0)) {
        expect(await create(server.url, each)).toBe(true);
        created.push(each);
      }
      for (const writer of writers) expect(await writer.append(server.url)).toBe(true);
    }

    // No request reaches a stream from here on. Only its own alarm can find an interrupted
    // notification.
    let stopped = false;
    const listening = workers([true]).map((worker) => worker.run(base, () => stopped));
    const untilAcknowledged = (ends) =>
      eventually(
        "every cursor at the end of its stream",
        async () => {
          noViolation();
          for (const ledger of ledgers) {
            const cursors = await ledger.cursors(server.url);
            const isBehind = ([stream, offset]) =>
              cursors.has(stream) ? cursors.get(stream) < offset : !ledger.body.streams;
            if (ends.some(isBehind)) return false;
          }
          return true;
        },
        { timeoutMs: quietMs, everyMs: 100 },
      );
    const begun = performance.now();
    await untilAcknowledged(writers.map(({ name, offset }) => [name, offset]));
    const quietSeconds = ((performance.now() - begun) / 1_000).toFixed(1);

    for (const each of uncertain) expect(await create(server.url, each)).toBe(true);
    created.push(...uncertain);
    for (const writer of writers) expect(await writer.append(server.url)).toBe(true);
    const heads = [...names, ...created].map(async (name) => {
      const stream = new Stream(server.url, name, "application/json");
      return [name, (await stream.head()).offset];
    });
    const tails = await Promise.all(heads);
    await untilAcknowledged(tails);
    for (const { name, count } of writers) {
      const stored = await new Stream(server.url, name, "application/json").messages();
      expect(stored).toEqual(range(count));
    }
    // Every lease has ended now, and nothing is offered any more.
    await sleep(leaseMs + 1_000);
    const { deliveries, claims } = observer.counts;
    await sleep(leaseMs);
    expect(observer.counts).toMatchObject({ deliveries, claims });
    stopped = true;
    await Promise.all(listening);
    for (const ledger of ledgers) {
      const followed = ledger.body.streams ?? [...names, ...created];
      const cursors = await ledger.cursors(server.url);
      expect([...cursors.keys()].sort()).toEqual([...followed].sort());
      for (const [name, tail] of tails)
        if (followed.includes(name)) expect(cursors.get(name)).toBe(tail);
      await ledger.fence(server.url);
    }
    // Each wake has its event once, and in order.
    for (const { id, body, generation } of pulling) {
      const wakes = new Stream(server.url, body.wake_stream, "application/json");
      const generations = (await wakes.messages()).map((event) => event.generation);
      expect(generations, id).toEqual(range(generations.length).map((index) => index + 1));
      expect(generations.length).toBeGreaterThanOrEqual(generation);
    }
    noViolation();
    const { counts } = observer;
    expect(counts.deliveries).toBeGreaterThan(rounds);
    expect(counts.claims).toBeGreaterThan(rounds);
    const generations = ledgers.map(({ generation }) => generation).join(", ");
    console.log(
      `subscriptions: ${rounds} kills, ${counts.appends} events of ${names.length + created.length} streams in ${ledgers.length} subscriptions, all acknowledged; ` +
        `${counts.deliveries} webhooks arrived, ${counts.repeated} of them repeated; ${counts.claims} claims; last generations ${generations}; ` +
        `${counts.accepted} callbacks and acks accepted, ${counts.fencedLate} too late; ${counts.fencedChecks} of former wakes all refused; ` +
        `left alone after the last kill, the streams had woken everybody after ${quietSeconds} s`,
    );
  } finally {
    await server.kill();
    await receiver.stop();
    await rm(dataDirectory, { recursive: true, force: true });
  }
}, 60_000 + rounds * 8_000 + 2 * quietMs);
