// Replays traces of the Rust live reader on its JavaScript twin. The argument is the file of
// traces.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { LIVE_HEAD, LiveReader } from "../shells/worker/js/live_reader.mjs";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const [first, ...traces] = readFileSync(process.argv[2], "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line));
const seen = new Set();

const shown = (effect) => {
  if (effect.type === "emit") return { ...effect, bytes: decoder.decode(effect.bytes) };
  if (effect.type === "answer") return { ...effect, body: decoder.decode(effect.body) };
  return effect;
};

assert.equal(LIVE_HEAD, first.live_head);
assert.ok(traces.length >= 5_000, `${traces.length} traces are too few`);
for (const { seed, head, steps } of traces) {
  const reader = new LiveReader(steps[0].at, head);
  for (const [index, { at, jitter, input, effects, deadline, ended }] of steps.entries()) {
    seen.add(`${head.class} ${reader.phase}: ${input.type}`);
    const given = input.body === undefined ? input : { ...input, body: encoder.encode(input.body) };
    const done = reader.step(at, jitter, given).map(shown);
    const where = `seed ${seed}, step ${index}`;
    assert.deepEqual(done, effects, where);
    assert.equal(reader.deadline, deadline, where);
    assert.equal(reader.isEnded, ended, where);
    for (const effect of done) seen.add(`${head.class} does ${effect.type}`);
  }
}

const inputs = [
  "connected",
  "forwarded",
  "unanswered",
  "message",
  "disconnected",
  "drained",
  "backpressure",
  "tick",
  "half-closed",
  "ending",
  "client-gone",
];
const phases = {
  sse: ["connecting", "attached", "behind", "ended"],
  "long-poll": ["connecting", "attached", "ended"],
};
const effects = {
  sse: ["connect", "disconnect", "emit", "end"],
  "long-poll": ["connect", "disconnect", "answer", "respond-empty", "forward"],
};
for (const [of, all] of Object.entries(phases)) {
  for (const phase of all)
    for (const input of inputs)
      assert.ok(seen.has(`${of} ${phase}: ${input}`), `no ${of} ${phase}: ${input}`);
  for (const effect of effects[of])
    assert.ok(seen.has(`${of} does ${effect}`), `no ${of} does ${effect}`);
}
console.log(`${traces.length} traces replayed, with every input in every phase`);
