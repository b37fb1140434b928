// The pages that `cargo xtask browser` has written, and what the native simulator printed of them.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";

/**
 * Returns the URL of a page.
 *
 * @param {string} directory
 * @param {string} name
 */
export function urlOf(directory, name) {
  return pathToFileURL(path.join(directory, `${name}.html`)).href;
}

/**
 * Reads what `cargo sim replay` printed of the same run.
 *
 * @param {string} directory
 * @param {string} name
 */
export async function nativeRun(directory, name) {
  const text = await readFile(path.join(directory, `${name}.txt`), "utf8");
  const after = (/** @type {string} */ word) =>
    new RegExp(`^${word} +(.*)$`, "m").exec(text)?.[1];
  return {
    hash: /^hash ([0-9a-f]{16})/m.exec(text)?.[1],
    events: Number(/ (\d+) events/.exec(text)?.[1]),
    oracle: after("oracle"),
    expected: after("expected"),
    actual: after("actual"),
    event: after("at event"),
  };
}
