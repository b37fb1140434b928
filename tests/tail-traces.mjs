// Replays what the Rust machine did on the Worker's twin of it. Argument: the file of traces.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { LIVE_HEAD, Tail } from "../shells/worker/js/tail.mjs";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const [first, ...traces] = readFileSync(process.argv[2], "utf8").trim().split("\n").map((line) => JSON.parse(line));
const seen = new Set();

const shown = (effect) => {
  if (effect.type === "emit") return { ...effect, bytes: decoder.decode(effect.bytes) };
  if (effect.type === "answer") return { ...effect, body: decoder.decode(effect.body) };
  return effect;
};

assert.equal(LIVE_HEAD, first.live_head);
assert.ok(traces.length >= 5_000, `${traces.length} traces are too few`);
for (const { seed, head, steps } of traces) {
  const tail = new Tail(steps[0].at, head);
  for (const [index, { at, chance, input, effects, deadline, ended }] of steps.entries()) {
    seen.add(`${head.class} ${tail.phase}: ${input.type}`);
    const given = input.body === undefined ? input : { ...input, body: encoder.encode(input.body) };
    const done = tail.step(at, chance, given).map(shown);
    const where = `seed ${seed}, step ${index}`;
    assert.deepEqual(done, effects, where);
    assert.equal(tail.deadline, deadline, where);
    assert.equal(tail.isEnded, ended, where);
    for (const effect of done) seen.add(`${head.class} does ${effect.type}`);
  }
}

const inputs = ["dialled", "passed", "unanswered", "message", "line-closed", "pull", "full", "tick", "half-closed", "ending", "client-gone"];
const phases = { sse: ["dialling", "attached", "behind", "ended"], "long-poll": ["dialling", "attached", "ended"] };
const effects = { sse: ["dial", "hang-up", "emit", "end"], "long-poll": ["dial", "hang-up", "answer", "answer-held", "answer-passed"] };
for (const [of, all] of Object.entries(phases)) {
  for (const phase of all) for (const input of inputs) assert.ok(seen.has(`${of} ${phase}: ${input}`), `no ${of} ${phase}: ${input}`);
  for (const effect of effects[of]) assert.ok(seen.has(`${of} does ${effect}`), `no ${of} does ${effect}`);
}
console.log(`${traces.length} traces replayed, with every input in every phase`);
