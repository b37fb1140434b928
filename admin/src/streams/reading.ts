// What the message list of one stream shows, and the reads behind it.

import { api, type StreamDetail } from "../api";
import { Failure } from "../http";
import { type Connection, follow, type Part } from "./follow";
import { type Form, formOf, Log } from "./log";
import { formatOffset, parseOffset } from "./offsets";

/** How far before the tail the list begins. */
const tailMessages = 500;
const tailBytes = 32 << 10;
/** How many rows are read beyond those that are needed on the screen. */
const rowsAhead = 1_000;

export type End = "open" | "closed" | "failed";

let lastId = 0;

/** One look at a stream: from an offset onwards. A seek makes a new one. */
export class Reading {
  readonly id: number;
  readonly log: Log;
  connection: Connection = "connecting";
  failure: Failure | undefined;
  end: End = "open";

  private shown = 0;
  private offset: string;
  private wake: (() => void) | undefined;
  private run: AbortController | undefined;
  private readonly listeners = new Set<() => void>();

  constructor(
    readonly name: string,
    readonly from: string,
    form: Form,
    /** Whether everything up to the tail has been read. A read from there may not answer soon. */
    public isAtTail: boolean,
  ) {
    lastId += 1;
    this.id = lastId;
    this.log = new Log(form);
    this.offset = from;
  }

  get isPaused(): boolean {
    return this.run === undefined;
  }

  /** Reads on from where the last read ended. */
  start(): void {
    if (this.run !== undefined) return;
    this.run = new AbortController();
    this.read(this.run.signal).catch(() => {});
    this.changed();
  }

  pause(): void {
    this.run?.abort();
    this.run = undefined;
    this.changed();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    const end = this.log.subscribe(listener);
    return () => {
      end();
      this.listeners.delete(listener);
    };
  };

  /** Tells up to which row, counted with the forgotten ones, the list is seen. */
  showing(last: number): void {
    this.shown = last;
    this.check();
  }

  private get isWanted(): boolean {
    return this.log.count - this.shown < rowsAhead;
  }

  private check(): void {
    if (!this.isWanted) return;
    this.wake?.();
    this.wake = undefined;
  }

  private async read(signal: AbortSignal): Promise<void> {
    try {
      await follow({
        name: this.name,
        offset: this.offset,
        signal,
        take: (part) => this.take(part),
        wanted: async () => {
          // New messages at the tail are always read, because they are few at a time.
          if (this.isWanted || this.isAtTail) return;
          await new Promise<void>((resolve, reject) => {
            this.wake = resolve;
            signal.addEventListener("abort", () => reject(signal.reason), { once: true });
          });
        },
        connection: (state, failure) => {
          this.connection = state;
          this.failure = failure;
          this.changed();
        },
      });
      this.end = "closed";
    } catch (error) {
      signal.throwIfAborted();
      this.end = "failed";
      this.failure = error instanceof Failure ? error : new Failure(String(error), 0);
    }
    this.changed();
  }

  private take(part: Part): void {
    this.offset = part.next;
    this.isAtTail = part.isUpToDate;
    this.log.take(part);
    this.changed();
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

/** Returns where a list begins that shows the end of the stream. */
export function nearTail(detail: StreamDetail, signal: AbortSignal): Promise<string> {
  return placeBefore(detail, detail.tailOffset, signal);
}

/** Returns the offset that lies some hundred messages, or some kilobytes, before another one. */
export async function placeBefore(
  { streamId, contentType }: StreamDetail,
  offset: string,
  signal: AbortSignal,
): Promise<string> {
  const units = BigInt(formOf(contentType) === "json" ? tailMessages : tailBytes);
  const place = parseOffset(offset);
  if (place === undefined) return "-1";
  const { segment, position } = place;
  if (position >= units) return formatOffset({ segment, position: position - units });
  if (segment === 0n) return formatOffset({ segment, position: 0n });
  const before = segment - 1n;
  const after = before === 0n ? undefined : String(before - 1n);
  const { entries } = await api.segments(streamId, after, signal);
  const found = entries.find(({ readSeq }) => BigInt(readSeq) === before);
  // The list does not have the segments that a fork inherits.
  const end = found === undefined ? undefined : parseOffset(found.endOffset);
  const missing = units - position;
  const start = end !== undefined && end.position > missing ? end.position - missing : 0n;
  return formatOffset({ segment: before, position: start });
}
