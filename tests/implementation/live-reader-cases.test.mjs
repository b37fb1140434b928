// The live reader in JavaScript, which only the Worker has, on the same cases as its Rust twin.

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { shell } from "../harness/server.mjs";
import { LiveReader } from "../../shells/worker/js/live_reader.mjs";

const text = readFileSync(new URL("../live-reader-cases.json", import.meta.url), "utf8");
const offset = (_, position) => `${"0".repeat(16)}_${position.padStart(16, "0")}`;
const { head: defaults, cases } = JSON.parse(text.replace(/@(\d+)/g, offset));

const encoder = new TextEncoder();
const decoder = new TextDecoder();

const headOf = (given, of) => ({
  ...defaults,
  class: of,
  age_ms_max: defaults.age_ms_max[of],
  ...given,
});

function inputOf(input, of) {
  const body = encoder.encode(input.body ?? "");
  if (input.type === "connected") return { ...input, head: headOf(input.head, of), body };
  return { ...input, body };
}

function shown(effect) {
  if (effect.type === "emit") return { type: "emit", text: decoder.decode(effect.bytes) };
  if (effect.type === "answer") return { ...effect, body: decoder.decode(effect.body) };
  return effect;
}

test.runIf(shell === "worker").each(cases)("$name", ({ class: of, steps }) => {
  const reader = new LiveReader(steps[0].at, headOf(steps[0].input.head, of));
  for (const [index, { at, jitter = 0, input, effects, deadline }] of steps.entries()) {
    expect(reader.step(at, jitter, inputOf(input, of)).map(shown), `step ${index}`).toEqual(
      effects,
    );
    if (deadline !== undefined)
      expect(reader.deadline, `deadline after step ${index}`).toBe(deadline);
  }
});
