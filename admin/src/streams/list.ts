// The list of streams: a snapshot from the admin API, then changes from the registry as they come.

import { api, type StreamEntry } from "../api";
import { Failure, onTokenChange, pause, send, untilVisible } from "../http";
import { type Connection, follow } from "./follow";
import { elementsOf } from "./json";
import { registryName, streamUrl } from "./names";

const pageEntries = 200;
/** The snapshot is loaded again after this time, because the registry may have several shards. */
const refreshMs = 30_000;
const retryMs = 3_000;
/** How long a change counts that the snapshot may not know yet. */
const recentMs = 20_000;

interface RegistryEvent {
  key: string;
  value?: { contentType: string; createdAt: number; forkedFrom?: string };
  headers: { operation: string };
}

export class StreamList {
  entries: StreamEntry[] = [];
  next: string | undefined;
  failure: Failure | undefined;
  isLoaded = false;
  isLoadingMore = false;
  connection: Connection = "connecting";
  prefix = "";

  private pages = 1;
  /** What has changed lately: a new stream, or nothing if it has ended. */
  private recent = new Map<string, { entry: StreamEntry | undefined; at: number }>();
  private listeners = new Set<() => void>();
  private run: AbortController | undefined;

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    if (this.listeners.size === 1) this.start();
    return () => {
      this.listeners.delete(listener);
      if (this.listeners.size === 0) this.run?.abort();
    };
  };

  constructor() {
    onTokenChange(() => {
      if (this.listeners.size > 0) this.start();
    });
  }

  setPrefix(prefix: string): void {
    if (prefix === this.prefix) return;
    this.prefix = prefix;
    this.pages = 1;
    this.start();
  }

  /** Loads the snapshot again, and follows from there. */
  start(): void {
    this.run?.abort();
    const run = new AbortController();
    this.run = run;
    // The tail is asked for first, so that no change between the two is missed.
    const tail = registryTail(run.signal);
    this.followRegistry(tail, run.signal).catch(() => {});
    this.refresh(tail, run.signal).catch(() => {});
  }

  async loadMore(): Promise<void> {
    const { run, next, prefix } = this;
    if (run === undefined || next === undefined || this.isLoadingMore) return;
    this.isLoadingMore = true;
    this.changed();
    try {
      const page = await api.streams(prefix, next, pageEntries, run.signal);
      if (run.signal.aborted) return;
      this.next = page.next;
      this.merge([...this.entries, ...page.entries]);
      this.pages += 1;
    } catch (error) {
      if (error instanceof Failure) this.failure = error;
    } finally {
      this.isLoadingMore = false;
      this.changed();
    }
  }

  /** Shows a stream that this page has created, before the registry tells. */
  add(entry: StreamEntry): void {
    this.note(entry.streamId, entry);
    this.changed();
  }

  remove(id: string): void {
    this.note(id, undefined);
    this.changed();
  }

  private async refresh(tail: Promise<unknown>, signal: AbortSignal): Promise<void> {
    await tail;
    for (;;) {
      await untilVisible(signal);
      try {
        await this.snapshot(signal);
        this.failure = undefined;
      } catch (error) {
        signal.throwIfAborted();
        this.failure = error instanceof Failure ? error : new Failure(String(error), 0);
      }
      this.isLoaded = true;
      this.changed();
      const isWaiting = this.failure !== undefined && this.failure.isTransient;
      await pause(isWaiting ? retryMs : refreshMs, signal);
    }
  }

  private async snapshot(signal: AbortSignal): Promise<void> {
    const entries: StreamEntry[] = [];
    let next: string | undefined;
    for (let page = 0; page < this.pages; page += 1) {
      const loaded = await api.streams(this.prefix, next, pageEntries, signal);
      signal.throwIfAborted();
      entries.push(...loaded.entries);
      next = loaded.next;
      if (next === undefined) break;
    }
    this.next = next;
    this.merge(entries);
  }

  private async followRegistry(tail: Promise<string>, signal: AbortSignal): Promise<void> {
    let offset = await tail;
    for (;;) {
      try {
        await follow({
          name: registryName,
          offset,
          signal,
          take: ({ bytes, next }) => {
            offset = next;
            const events = elementsOf(new TextDecoder().decode(bytes));
            if (events.length === 0) return;
            for (const event of events) this.apply(JSON.parse(event) as RegistryEvent);
            this.changed();
          },
          connection: (state) => {
            if (state === this.connection) return;
            // Events may have been missed while there was no connection.
            const isBack = this.connection === "waiting" && state === "live";
            this.connection = state;
            if (isBack)
              this.snapshot(signal).then(
                () => this.changed(),
                () => {},
              );
            this.changed();
          },
        });
      } catch (error) {
        signal.throwIfAborted();
        // The snapshot still shows what there is.
        this.connection = "waiting";
        this.changed();
        // The registry does not exist before the first stream.
        const isMissing = error instanceof Failure && error.status === 404;
        await pause(isMissing ? retryMs : refreshMs, signal);
      }
    }
  }

  private apply({ key, value, headers }: RegistryEvent): void {
    if (headers.operation === "delete" || value === undefined) {
      this.note(key, undefined);
      return;
    }
    this.note(key, {
      streamId: key,
      contentType: value.contentType,
      closed: false,
      createdAt: value.createdAt,
      expiresAt: null,
      ttlSeconds: null,
      forkedFrom: value.forkedFrom ?? null,
    });
  }

  /** Takes a change that the snapshot may not know yet. */
  private note(id: string, entry: StreamEntry | undefined): void {
    this.recent.set(id, { entry, at: Date.now() });
    this.merge(this.entries);
  }

  /** Shows these entries with the recent changes. */
  private merge(entries: StreamEntry[]): void {
    const byId = new Map(entries.map((entry) => [entry.streamId, entry]));
    const last = entries.at(-1)?.streamId;
    for (const [id, { entry, at }] of this.recent) {
      if (Date.now() - at > recentMs) {
        this.recent.delete(id);
      } else if (entry === undefined) {
        byId.delete(id);
      } else if (
        id.startsWith(this.prefix) &&
        // What lies beyond the loaded pages comes with them.
        (this.next === undefined || last === undefined || id < last)
      ) {
        byId.set(id, byId.get(id) ?? entry);
      }
    }
    this.entries = [...byId.values()].sort((a, b) => (a.streamId < b.streamId ? -1 : 1));
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

/** Returns the end of the registry, or its beginning if there is no registry yet. */
async function registryTail(signal: AbortSignal): Promise<string> {
  try {
    const answer = await send("streams", streamUrl(registryName), { method: "HEAD", signal });
    return answer.headers.get("Stream-Next-Offset") ?? "now";
  } catch (error) {
    return error instanceof Failure && error.status === 404 ? "-1" : "now";
  }
}

export const streamList = new StreamList();
