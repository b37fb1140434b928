// Runs each program of programs.json on a real object, and compares the result with all results
// that the simulated object can have (`cargo sim fidelity`).

import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import WebSocket from "ws";
import { eventually, sleep } from "../harness/http.mjs";
import { repositoryRoot, startServer } from "../harness/server.mjs";

const programs = JSON.parse(
  await readFile(path.join(repositoryRoot, "tests/fidelity/programs.json"), "utf8"),
);
const simulated = JSON.parse(await readFile(process.env.FIDELITY_SIMULATED, "utf8"));

/** The runtime hibernates an idle object, which may have WebSockets, after ten seconds. */
const asleepAfterMs = 20_000;

const start = (dataDirectory) =>
  startServer({
    bundle: "tests/fidelity",
    dataDirectory,
    modules: [
      { name: "object.mjs", kind: "esModule" },
      { name: "programs.json", kind: "json" },
    ],
    objects: [{ className: "Subject", binding: "SUBJECTS" }],
  });

/** One run of one program, from outside of the object. */
class Run {
  calls = [];
  lines = [];
  pending = [];

  constructor(number, server, restart) {
    this.number = number;
    this.server = server;
    this.restart = restart;
  }

  get base() {
    return `${this.server.url}/${this.number}`;
  }

  call(handler) {
    const call = { received: "" };
    this.calls.push(call);
    const ended = new Promise((resolve) => {
      const end = (outcome) => {
        call.outcome ??= outcome;
        resolve();
      };
      const outgoing = http.get(`${this.base}/${handler}`, { agent: false }, (incoming) => {
        incoming.setEncoding("utf8").on("data", (text) => {
          if (incoming.statusCode === 200) call.received += text;
        });
        incoming.on("error", () => end("failed"));
        incoming.on("end", () => end(incoming.statusCode === 200 ? "done" : "failed"));
      });
      outgoing.on("error", () => end("failed"));
    });
    this.pending.push(ended);
    return ended;
  }

  async connect() {
    const line = { received: [], socket: new WebSocket(`${this.base.replace("http", "ws")}/connect`) };
    this.lines.push(line);
    line.socket.on("message", (data) => line.received.push(data.toString()));
    line.socket.on("error", () => {});
    line.socket.on("close", () => line.left || line.received.push("closed"));
    await new Promise((resolve, reject) => line.socket.once("open", resolve).once("error", reject));
  }

  heard(text) {
    return (
      this.lines.some(({ received }) => received.includes(text)) ||
      this.calls.some(({ received }) => received.includes(text))
    );
  }

  async act(act) {
    if (act === "connect") return this.connect();
    if (act === "finish") return Promise.all(this.pending);
    if (act === "sleep") return sleep(asleepAfterMs);
    if (act === "kill") {
      this.server = await this.restart();
      return Promise.all(this.pending);
    }
    if (act === "disconnect") {
      for (const line of this.lines) {
        line.left = true;
        line.socket.close();
      }
      return undefined;
    }
    if (act.call) return this.call(act.call);
    if (act.start) return void this.call(act.start);
    if (act.wait) return sleep(act.wait);
    if (act.say) return this.lines.forEach(({ socket }) => socket.send(act.say));
    if (act.hear) return eventually(`hear ${act.hear}`, () => this.heard(act.hear), { everyMs: 1 });
    throw new Error(`not an act: ${JSON.stringify(act)}`);
  }

  async seen() {
    const log = await (await fetch(`${this.base}/`)).json();
    const lines = this.lines.map(({ received }) => [...received]);
    for (const { socket } of this.lines) socket.terminate();
    return {
      calls: this.calls.map(({ outcome, received }) => `${outcome ?? "unanswered"} ${received}`.trim()),
      lines,
      log,
    };
  }
}

let shared;
const observed = {};
beforeAll(async () => {
  shared = await start();
});
afterAll(async () => {
  await shared.kill();
  // For a comparison by hand with the simulator's results.
  await writeFile(
    process.env.FIDELITY_SIMULATED.replace(/[^/]*$/, "workerd.json"),
    JSON.stringify(observed, undefined, 2),
  );
});

/** A program that kills its server gets its own. */
async function runAlone(number) {
  const dataDirectory = await mkdtemp(path.join(tmpdir(), "durable-streams-fidelity-"));
  let server = await start(dataDirectory);
  try {
    const run = new Run(number, server, async () => {
      await server.kill();
      server = await start(dataDirectory);
      return server;
    });
    for (const act of programs[number].script) await run.act(act);
    return await run.seen();
  } finally {
    await server.kill();
    await rm(dataDirectory, { recursive: true, force: true });
  }
}

async function runShared(number) {
  const run = new Run(number, shared);
  for (const act of programs[number].script) await run.act(act);
  return run.seen();
}

for (const [number, { name, script, differs }] of programs.entries()) {
  test.concurrent(differs ? `${name} (otherwise in workerd)` : name, async ({ expect }) => {
    const seen = await (script.includes("kill") ? runAlone(number) : runShared(number));
    observed[name] = seen;
    const allowed = simulated[name];
    // A known difference must still exist. Otherwise its entry is outdated.
    if (differs) expect(allowed, "they agree").not.toContainEqual(seen);
    else if (allowed.length === 1) expect(seen).toEqual(allowed[0]);
    else expect(allowed).toContainEqual(seen);
  });
}

test("the simulator runs the same programs", () => {
  expect(Object.keys(simulated).sort()).toEqual(programs.map(({ name }) => name).sort());
});
