// An object that runs the tiny programs of programs.json on the real platform. Its twin for the
// simulated platform is sim/src/fidelity.rs. A step must mean the same in both.

import { DurableObject } from "cloudflare:workers";
import programs from "programs.json";

// Both survive an instance of an object, and end with the process.
const logs = new Map();
const taken = new Set();
const names = new Map();

class Thrown extends Error {}

const logOf = (number) => {
  if (!logs.has(number)) logs.set(number, []);
  return logs.get(number);
};

function numberOf(id, namespace) {
  if (names.size === 0)
    for (const number of programs.keys())
      names.set(namespace.idFromName(String(number)).toString(), number);
  return names.get(id.toString());
}

export class Subject extends DurableObject {
  #memory;

  constructor(ctx, env) {
    super(ctx, env);
    this.number = numberOf(ctx.id, env.SUBJECTS);
    this.handlers = programs[this.number].handlers;
  }

  async fetch(request) {
    const handler = new URL(request.url).pathname.split("/")[2];
    if (handler === "connect") {
      const { 0: client, 1: server } = new WebSocketPair();
      this.ctx.acceptWebSocket(server);
      await this.#run(handler, { line: server });
      return new Response(null, { status: 101, webSocket: client });
    }
    if (!this.handlers[handler].some((step) => step.chunk !== undefined)) {
      await this.#run(handler);
      return new Response(null);
    }
    let controller;
    const body = new ReadableStream({ start: (given) => void (controller = given) });
    const running = this.#run(handler, {
      send: (text) => controller.enqueue(new TextEncoder().encode(text)),
    });
    this.ctx.waitUntil(
      running.then(
        () => controller.close(),
        (error) => controller.error(error),
      ),
    );
    return new Response(body);
  }

  async alarm() {
    logOf(this.number).push("alarm comes");
    await this.#run("alarm");
  }

  async webSocketMessage(line, text) {
    logOf(this.number).push(`line says ${text}`);
    await this.#run("message", { line });
  }

  async webSocketClose(line) {
    logOf(this.number).push("line is closed");
    if (this.handlers.close) await this.#run("close", { line });
  }

  async #run(handler, given = {}) {
    await this.#steps(handler, this.handlers[handler], given);
  }

  async #steps(handler, steps, given) {
    for (const [index, step] of steps.entries()) {
      if (step.pause !== undefined) await scheduler.wait(step.pause);
      else if (step === "sync") await this.ctx.storage.sync();
      else if (step === "delete_all") await this.ctx.storage.deleteAll();
      else if (step === "get_alarm")
        this.#say(
          handler,
          `alarm ${(await this.ctx.storage.getAlarm()) === null ? "none" : "set"}`,
        );
      else if (step.once) {
        const name = `${this.number} ${handler} ${index}`;
        if (taken.has(name)) continue;
        taken.add(name);
        await this.#steps(handler, step.once, given);
      } else this.#take(handler, step, given);
    }
  }

  #say(handler, text) {
    logOf(this.number).push(`${handler}: ${text}`);
  }

  #take(handler, step, { line, send }) {
    const { sql } = this.ctx.storage;
    if (step === "throw") throw new Thrown();
    if (step === "abort") this.ctx.abort("as the program says");
    else if (step === "recall") this.#say(handler, `memory ${this.#memory ?? "empty"}`);
    else if (step === "no_alarm") this.ctx.storage.deleteAlarm();
    else if (step === "lines") {
      const kept = this.ctx
        .getWebSockets()
        .map((each) => each.deserializeAttachment() ?? "nothing");
      this.#say(handler, `lines ${kept.length === 0 ? "none" : kept.join(" ")}`);
    } else if (step.remember !== undefined) this.#memory = step.remember;
    else if (step.alarm !== undefined) this.ctx.storage.setAlarm(Date.now() + step.alarm);
    else if (step.chunk !== undefined) send(step.chunk);
    else if (step.attach !== undefined) line.serializeAttachment(step.attach);
    else if (step.send !== undefined)
      for (const each of this.ctx.getWebSockets()) each.send(step.send);
    else if (step.insert) {
      const [table, row] = step.insert;
      sql.exec(`CREATE TABLE IF NOT EXISTS ${table} (row INTEGER)`);
      sql.exec(`INSERT INTO ${table} (row) VALUES (?)`, row);
    } else if (step.drop) sql.exec(`DROP TABLE ${step.drop}`);
    else if (step.rows) {
      const exists =
        sql.exec("SELECT name FROM sqlite_master WHERE name = ?", step.rows).toArray().length > 0;
      const rows = exists ? sql.exec(`SELECT row FROM ${step.rows} ORDER BY rowid`).toArray() : [];
      this.#say(handler, `rows ${exists ? rows.map(({ row }) => row).join(" ") : "none"}`);
    } else if (step.transaction) {
      try {
        this.ctx.storage.transactionSync(() =>
          step.transaction.forEach((each) => this.#take(handler, each, {})),
        );
      } catch (error) {
        if (!(error instanceof Thrown)) throw error;
        this.#say(handler, "rolled back");
      }
    } else throw new Error(`not a step: ${JSON.stringify(step)}`);
  }
}

export default {
  async fetch(request, env) {
    const [, number, handler] = new URL(request.url).pathname.split("/");
    if (!number) return new Response("ready");
    if (!handler) return Response.json(logOf(Number(number)));
    return env.SUBJECTS.get(env.SUBJECTS.idFromName(number)).fetch(request);
  },
};
