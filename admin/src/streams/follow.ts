// Follows a stream by long-poll with fetch, which can send a token, unlike an EventSource.

import { Failure, pause, send, untilVisible } from "../http";
import { streamUrl } from "./names";

/** A part of a stream, as one answer brings it. */
export interface Part {
  from: string;
  next: string;
  bytes: Uint8Array;
  contentType: string;
  isUpToDate: boolean;
  isClosed: boolean;
}

export type Connection = "connecting" | "live" | "waiting";

export interface FollowOptions {
  name: string;
  offset: string;
  signal: AbortSignal;
  take(part: Part): void;
  /** Resolves when the next part is wanted. */
  wanted?(): Promise<void>;
  connection?(state: Connection, failure?: Failure): void;
}

const pauseMinMs = 500;
const pauseMaxMs = 10_000;

/**
 * Follows a stream until it is closed and read to its end, or until the signal aborts. Failures
 * that may pass are retried from the same offset.
 *
 * Throws a `Failure` that no retry helps, such as 401 or 404.
 */
export async function follow(options: FollowOptions): Promise<void> {
  const { name, signal, take } = options;
  let { offset } = options;
  let cursor = "";
  let pauseMs = pauseMinMs;
  options.connection?.("connecting");
  for (;;) {
    await options.wanted?.();
    await untilVisible(signal);
    signal.throwIfAborted();
    // A hidden page ends its request, because an HTTP/1.1 browser has six connections in all.
    const hidden = new AbortController();
    const onHidden = () => {
      if (document.visibilityState === "hidden") hidden.abort();
    };
    document.addEventListener("visibilitychange", onHidden);
    const stop = () => hidden.abort();
    signal.addEventListener("abort", stop);
    try {
      const query = new URLSearchParams({ offset, live: "long-poll" });
      if (cursor !== "") query.set("cursor", cursor);
      const url = `${streamUrl(name)}?${query}`;
      const answer = await send("streams", url, { signal: hidden.signal });
      const bytes = new Uint8Array(await answer.arrayBuffer());
      const next = answer.headers.get("Stream-Next-Offset") ?? offset;
      const part: Part = {
        from: offset,
        next,
        bytes,
        contentType: answer.headers.get("Content-Type") ?? "",
        isUpToDate: answer.headers.has("Stream-Up-To-Date"),
        isClosed: answer.headers.has("Stream-Closed"),
      };
      cursor = answer.headers.get("Stream-Cursor") ?? "";
      offset = next;
      pauseMs = pauseMinMs;
      options.connection?.("live");
      take(part);
      if (part.isClosed && (part.isUpToDate || answer.status === 204)) return;
    } catch (error) {
      signal.throwIfAborted();
      if (hidden.signal.aborted) continue;
      const failure = error instanceof Failure ? error : new Failure("The answer was cut off.", 0);
      if (!failure.isTransient) throw failure;
      options.connection?.("waiting", failure);
      await pause(pauseMs * (0.75 + Math.random() / 2), signal);
      pauseMs = Math.min(pauseMs * 2, pauseMaxMs);
    } finally {
      document.removeEventListener("visibilitychange", onHidden);
      signal.removeEventListener("abort", stop);
    }
  }
}
