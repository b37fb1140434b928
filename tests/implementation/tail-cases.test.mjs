// The reader's side in JavaScript, which only the Worker has, held to the cases that its Rust twin is held to as well.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { shell } from "../harness/server.mjs";
import { Tail } from "../../shells/worker/js/tail.mjs";

const text = readFileSync(new URL("../tail-cases.json", import.meta.url), "utf8");
const offset = (_, position) => `${"0".repeat(16)}_${position.padStart(16, "0")}`;
const { head: defaults, cases } = JSON.parse(text.replace(/@(\d+)/g, offset));

const encoder = new TextEncoder();
const decoder = new TextDecoder();

const headOf = (given, of) => ({ ...defaults, class: of, age_ms_max: defaults.age_ms_max[of], ...given });

function inputOf(input, of) {
  const body = encoder.encode(input.body ?? "");
  if (input.type === "dialled") return { ...input, head: headOf(input.head, of), body };
  return { ...input, body };
}

function told(effect) {
  if (effect.type === "emit") return { type: "emit", text: decoder.decode(effect.bytes) };
  if (effect.type === "answer") return { ...effect, body: decoder.decode(effect.body) };
  return effect;
}

test.runIf(shell === "worker").each(cases)("$name", ({ class: of, steps }) => {
  const tail = new Tail(steps[0].at, headOf(steps[0].input.head, of));
  for (const [index, { at, chance = 0, input, effects, deadline }] of steps.entries()) {
    expect(tail.step(at, chance, inputOf(input, of)).map(told), `step ${index}`).toEqual(effects);
    if (deadline !== undefined) expect(tail.deadline, `deadline after step ${index}`).toBe(deadline);
  }
});
