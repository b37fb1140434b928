// The difference between two texts, line by line.

/**
 * @typedef {{ kind: "same" | "added" | "removed", text: string }
 *   | { kind: "changed", name: string, before: string, after: string }} Change
 */

/**
 * Returns the lines of both texts in order. A line of which only the value differs is one change.
 *
 * @param {string} before
 * @param {string} after
 * @returns {Change[]}
 */
export function difference(before, after) {
  return joined(aligned(linesOf(before), linesOf(after)));
}

/** @param {string} text */
function linesOf(text) {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/**
 * Aligns both by their longest common subsequence.
 *
 * @param {string[]} before
 * @param {string[]} after
 */
function aligned(before, after) {
  const rows = before.length + 1;
  const columns = after.length + 1;
  const lengths = new Uint32Array(rows * columns);
  const at = (/** @type {number} */ row, /** @type {number} */ column) =>
    lengths[row * columns + column] ?? 0;
  for (let row = before.length - 1; row >= 0; row -= 1) {
    for (let column = after.length - 1; column >= 0; column -= 1) {
      lengths[row * columns + column] =
        before[row] === after[column]
          ? at(row + 1, column + 1) + 1
          : Math.max(at(row + 1, column), at(row, column + 1));
    }
  }
  /** @type {{ kind: "same" | "added" | "removed", text: string }[]} */
  const lines = [];
  let row = 0;
  let column = 0;
  while (row < before.length || column < after.length) {
    const [old, fresh] = [before[row], after[column]];
    if (old !== undefined && old === fresh) {
      lines.push({ kind: "same", text: old });
      row += 1;
      column += 1;
    } else if (
      old !== undefined &&
      (fresh === undefined || at(row + 1, column) >= at(row, column + 1))
    ) {
      lines.push({ kind: "removed", text: old });
      row += 1;
    } else {
      lines.push({ kind: "added", text: fresh ?? "" });
      column += 1;
    }
  }
  return lines;
}

/**
 * Joins a removed and an added line of the same name.
 *
 * @param {{ kind: "same" | "added" | "removed", text: string }[]} lines
 * @returns {Change[]}
 */
function joined(lines) {
  /** @type {Change[]} */
  const changes = [];
  for (let at = 0; at < lines.length; ) {
    let end = at;
    while (end < lines.length && lines[end]?.kind !== "same") end += 1;
    const block = lines.slice(at, end);
    const added = block.filter((line) => line.kind === "added");
    for (const line of block) {
      if (line.kind === "added") continue;
      const name = nameOf(line.text);
      const match = added.findIndex((each) => name !== undefined && nameOf(each.text) === name);
      if (name === undefined || match < 0) {
        changes.push(line);
        continue;
      }
      for (const each of added.splice(0, match)) changes.push(each);
      const after = added.shift()?.text ?? "";
      const value = (/** @type {string} */ text) => text.slice(name.length + 1).trim();
      changes.push({ kind: "changed", name, before: value(line.text), after: value(after) });
    }
    changes.push(...added);
    const same = lines[end];
    if (same) changes.push(same);
    at = end + 1;
  }
  return changes;
}

/**
 * Returns what stands before the first colon.
 *
 * @param {string} text
 */
function nameOf(text) {
  const colon = text.indexOf(":");
  return colon < 0 ? undefined : text.slice(0, colon);
}
