// Offsets as this server writes them: segment and position. Other clients must not parse them. This
// page is a part of the server.

export interface Place {
  segment: bigint;
  position: bigint;
}

const form = /^(\d{16})_(\d{16})$/;

export function parseOffset(text: string): Place | undefined {
  const found = form.exec(text);
  return found === null
    ? undefined
    : { segment: BigInt(found[1] ?? 0), position: BigInt(found[2] ?? 0) };
}

export function formatOffset({ segment, position }: Place): string {
  const digits = (number: bigint) => number.toString().padStart(16, "0");
  return `${digits(segment)}_${digits(position)}`;
}

/** Returns an offset without its leading zeros, to be shown. */
export function shortOffset(text: string): string {
  const place = parseOffset(text);
  return place === undefined ? text : `${place.segment}_${place.position}`;
}

/** Reads an offset as a user types it: in full, or without the leading zeros. */
export function readOffset(typed: string): string | undefined {
  const text = typed.trim();
  if (text === "-1" || text === "now") return text;
  const found = /^(\d{1,16})_(\d{1,16})$/.exec(text);
  if (found === null) return undefined;
  return formatOffset({ segment: BigInt(found[1] ?? 0), position: BigInt(found[2] ?? 0) });
}

/** Where the messages of a part begin: some in one segment, the rest in the next. */
export interface Beginnings {
  first: Place;
  /** How many of the messages are in the first segment. */
  inFirst: number;
  next: Place;
}

/**
 * Returns where `count` messages begin that lie between two offsets, or undefined if more than one
 * segment ends among them.
 */
export function beginningsBetween(
  from: string,
  next: string,
  count: number,
): Beginnings | undefined {
  const first = from === "-1" ? { segment: 0n, position: 0n } : parseOffset(from);
  const end = parseOffset(next);
  if (first === undefined || end === undefined) return undefined;
  const begin = { segment: end.segment, position: 0n };
  if (first.segment === end.segment) return { first, inFirst: count, next: begin };
  const inFirst = count - Number(end.position);
  // The part may also begin at the end of a segment, with nothing of it.
  return first.segment + 1n === end.segment && inFirst >= 0
    ? { first, inFirst, next: begin }
    : undefined;
}

/** Returns the offset of one of the messages. */
export function offsetAt({ first, inFirst, next }: Beginnings, index: number): string {
  const [place, distance] = index < inFirst ? [first, index] : [next, index - inFirst];
  return formatOffset({ ...place, position: place.position + BigInt(distance) });
}
