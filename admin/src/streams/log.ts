// The part of a stream that the page holds: rows for the list, of bounded number.

import type { Part } from "./follow";
import { elementsOf } from "./json";
import { type Beginnings, beginningsBetween, offsetAt } from "./offsets";

/** How content is shown: JSON messages, lines of text, or rows of 16 bytes. */
export type Form = "json" | "text" | "binary";

export interface Row {
  /** Where the messages of its part begin, if that is known. */
  beginnings: Beginnings | undefined;
  /** Which message of its part it is. */
  index: number;
  /** A message or a line, or nothing if the row is binary. */
  text: string;
  bytes: Uint8Array | undefined;
}

const rowsMax = 100_000;
/** How many rows are forgotten at once when there are too many. */
const rowsForgotten = 10_000;
const charactersMax = 64 << 20;
const rowBytes = 16;

export function formOf(contentType: string): Form {
  const type = contentType.split(";")[0]?.trim().toLowerCase() ?? "";
  if (type === "application/json") return "json";
  const isText =
    type.startsWith("text/") || /[/+](?:xml|json|yaml|x-ndjson|javascript|graphql)$/.test(type);
  return isText ? "text" : "binary";
}

export class Log {
  rows: Row[] = [];
  /** How many rows were forgotten, because there were too many. */
  forgotten = 0;
  /** How many rows have come, the forgotten ones included. */
  get count(): number {
    return this.forgotten + this.rows.length;
  }

  private characters = 0;
  private decoder = new TextDecoder();
  /** Whether the last row goes on with the next part. */
  private isOpen = false;
  private listeners = new Set<() => void>();
  private isScheduled = false;

  constructor(readonly form: Form) {}

  /** Calls the listener, at most once a frame, after rows have come. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  take(part: Part): void {
    if (part.bytes.length === 0) return;
    if (this.form === "json") this.takeMessages(part);
    else if (this.form === "text") this.takeText(part);
    else this.takeBytes(part);
    this.forget();
    if (this.isScheduled) return;
    this.isScheduled = true;
    requestAnimationFrame(() => {
      this.isScheduled = false;
      for (const listener of this.listeners) listener();
    });
  }

  private takeMessages(part: Part): void {
    const elements = elementsOf(new TextDecoder().decode(part.bytes));
    const beginnings = beginningsBetween(part.from, part.next, elements.length);
    elements.forEach((text, index) => this.push({ beginnings, index, text, bytes: undefined }));
  }

  private takeText(part: Part): void {
    const lines = this.decoder.decode(part.bytes, { stream: true }).split("\n");
    lines.forEach((line, index) => {
      const last = this.rows.at(-1);
      if (index === 0 && this.isOpen && last !== undefined) {
        this.rows[this.rows.length - 1] = { ...last, text: last.text + line };
        this.characters += line.length;
      } else if (index < lines.length - 1 || line !== "") {
        this.push({ beginnings: undefined, index, text: line, bytes: undefined });
      }
    });
    this.isOpen = lines.at(-1) !== "";
  }

  private takeBytes({ bytes }: Part): void {
    const last = this.rows.at(-1);
    let all = bytes;
    if (last?.bytes !== undefined && last.bytes.length < rowBytes) {
      all = new Uint8Array(last.bytes.length + bytes.length);
      all.set(last.bytes);
      all.set(bytes, last.bytes.length);
      this.rows.pop();
    }
    for (let at = 0; at < all.length; at += rowBytes) {
      const row = all.slice(at, at + rowBytes);
      this.push({ beginnings: undefined, index: 0, text: "", bytes: row });
    }
  }

  private push(row: Row): void {
    this.rows.push(row);
    this.characters += row.text.length;
  }

  private forget(): void {
    while (
      this.rows.length > rowsMax ||
      (this.characters > charactersMax && this.rows.length > 1)
    ) {
      const isMany = this.rows.length > rowsMax;
      const gone = this.rows.splice(0, isMany ? rowsForgotten : Math.ceil(this.rows.length / 10));
      this.forgotten += gone.length;
      for (const row of gone) this.characters -= row.text.length;
    }
  }
}

/** Returns the offset from which a read begins with this row, if it is known. */
export function offsetOf({ beginnings, index }: Row): string | undefined {
  return beginnings === undefined ? undefined : offsetAt(beginnings, index);
}

/** Returns a row of bytes as hexadecimal digits, in two groups, and as characters. */
export function hexOf(bytes: Uint8Array): [string, string] {
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"));
  const hex = [digits.slice(0, 8).join(" "), digits.slice(8).join(" ")].join("  ");
  const characters = Array.from(bytes, (byte) =>
    byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·",
  ).join("");
  return [hex.padEnd(rowBytes * 3), characters];
}

/** Reads hexadecimal digits, with or without spaces. */
export function bytesOf(hex: string): Uint8Array<ArrayBuffer> | undefined {
  const digits = hex.replace(/\s+/g, "");
  if (digits.length % 2 !== 0 || /[^0-9a-fA-F]/.test(digits)) return undefined;
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
