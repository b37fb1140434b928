// The fan-out queue of the server under test. Like Cloudflare's it keeps messages until they are
// acknowledged, and brings them in batches, in any order and at least once. `fanout-queue.mjs`
// controls it.

import { DurableObject } from "cloudflare:workers";

const name = "durable-streams-fanout-queue";
const batchMessages = 100;
const batchesAtOnce = 5;
const retriesMax = 20;
// A second of a pause takes this long.
const secondMs = 20;

const chance = (share = 0) => Math.random() < share;

export class FanoutQueue extends DurableObject {
  #faults = {};
  #counts = { batches: 0, messages: 0, brought: 0, acknowledged: 0, retried: 0 };
  #underWay = new Set();
  #running = 0;

  constructor(context, env) {
    super(context, env);
    this.sql = context.storage.sql;
    this.sql.exec(`CREATE TABLE IF NOT EXISTS messages (
      id INTEGER PRIMARY KEY, body TEXT NOT NULL, attempts INTEGER NOT NULL, is_dead INTEGER NOT NULL)`);
    this.#pump();
  }

  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === "/batch" || pathname === "/message") {
      const text = await request.text();
      if (chance(this.#faults.refuse)) return new Response("refused by a test", { status: 500 });
      const bodies =
        pathname === "/message" ? [text] : JSON.parse(text).messages.map(({ body }) => atob(body));
      this.#counts.batches += 1;
      this.#counts.messages += bodies.length;
      for (const body of bodies) {
        const copies = chance(this.#faults.repeat) ? 2 : 1;
        for (let copy = 0; copy < copies; copy += 1) {
          this.sql.exec("INSERT INTO messages (body, attempts, is_dead) VALUES (?, 0, 0)", body);
        }
      }
      this.#pump();
      if (chance(this.#faults.lie)) return new Response("taken, in truth", { status: 500 });
      return Response.json({ metadata: { metrics: { backlogCount: 0, backlogBytes: 0 } } });
    }
    if (pathname === "/faults") this.#faults = await request.json();
    this.#pump();
    const rows = this.sql.exec("SELECT is_dead, count(*) AS count FROM messages GROUP BY is_dead");
    const [waiting = 0, dead = 0] = rows.toArray().reduce((all, row) => {
      all[row.is_dead] = row.count;
      return all;
    }, []);
    return Response.json({ ...this.#counts, waiting, dead });
  }

  #pump() {
    while (this.#running < batchesAtOnce && !this.#faults.holds) {
      const order = this.#faults.shuffles ? "random()" : "id";
      const rows = this.sql.exec(`SELECT id, body, attempts FROM messages WHERE is_dead = 0
        ORDER BY ${order}`);
      const batch = [];
      for (const row of rows) {
        if (batch.length === batchMessages) break;
        if (!this.#underWay.has(row.id)) batch.push(row);
      }
      if (batch.length === 0) return;
      for (const { id } of batch) this.#underWay.add(id);
      this.#running += 1;
      this.ctx.waitUntil(this.#bring(batch));
    }
  }

  async #bring(batch) {
    const messages = batch.map(({ id, body, attempts }) => ({
      id: String(id),
      timestamp: new Date(),
      body,
      attempts: attempts + 1,
    }));
    this.#counts.brought += messages.length;
    let result;
    try {
      result = await this.env.CONSUMER.queue(name, messages);
    } catch (error) {
      console.error("the consumer failed", error);
    }
    this.#running -= 1;
    const retries = new Map(result?.retryMessages?.map((each) => [each.msgId, each.delaySeconds]));
    const fails = result === undefined || result.outcome !== "ok" || result.retryBatch?.retry;
    for (const { id } of batch) {
      const comesAgain = fails || retries.has(String(id)) || chance(this.#faults.forget);
      if (!comesAgain) {
        this.sql.exec("DELETE FROM messages WHERE id = ?", id);
        this.#underWay.delete(id);
        this.#counts.acknowledged += 1;
        continue;
      }
      this.#counts.retried += 1;
      this.sql.exec(
        `UPDATE messages SET attempts = attempts + 1, is_dead = attempts >= ${retriesMax} WHERE id = ?`,
        id,
      );
      const pauseMs = (retries.get(String(id)) ?? 0) * secondMs;
      setTimeout(() => {
        this.#underWay.delete(id);
        this.#pump();
      }, pauseMs);
    }
    this.#pump();
  }
}

export default {
  fetch: (request, env) => env.QUEUE.getByName("queue").fetch(request),
};
