// Hooks that the pages share.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Failure, onTokenChange, pause, untilVisible } from "./http";

export interface Query<T> {
  value: T | undefined;
  /** The failure of the last attempt. The value is then the one before. */
  failure: Failure | undefined;
  isLoading: boolean;
  reload(): void;
}

/**
 * Loads a value, again and again if there is an interval, while the page can be seen. A change of
 * `key` or of a token starts anew.
 */
export function useQuery<T>(
  key: string,
  load: (signal: AbortSignal) => Promise<T>,
  intervalMs?: number,
): Query<T> {
  const [state, setState] = useState<{ key: string; value?: T; failure?: Failure }>({ key });
  const [isLoading, setLoading] = useState(true);
  const [round, setRound] = useState(0);
  const latest = useRef(load);
  latest.current = load;
  useEffect(() => onTokenChange(() => setRound((round) => round + 1)), []);
  useEffect(() => {
    const end = new AbortController();
    const run = async () => {
      for (;;) {
        await untilVisible(end.signal);
        setLoading(true);
        try {
          const value = await latest.current(end.signal);
          setState({ key, value });
        } catch (error) {
          end.signal.throwIfAborted();
          const failure = error instanceof Failure ? error : new Failure(String(error), 0);
          setState((before) =>
            before.key === key && before.value !== undefined && failure.isTransient
              ? { ...before, failure }
              : { key, failure },
          );
        }
        end.signal.throwIfAborted();
        setLoading(false);
        if (intervalMs === undefined) return;
        await pause(intervalMs, end.signal);
      }
    };
    run().catch(() => {
      // It ends when its page does.
    });
    return () => end.abort();
  }, [key, intervalMs, round]);
  const reload = useCallback(() => setRound((round) => round + 1), []);
  const isCurrent = state.key === key;
  return {
    value: isCurrent ? state.value : undefined,
    failure: isCurrent ? state.failure : undefined,
    isLoading,
    reload,
  };
}

/** Renders again when the subscription calls. */
export function useSubscription(subscribe: (listener: () => void) => () => void): void {
  const [, setRound] = useState(0);
  useEffect(() => subscribe(() => setRound((round) => round + 1)), [subscribe]);
}

/** Sets the title of the document while a component is shown. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Durable Streams`;
  }, [title]);
}

/** Calls the handler on a key, unless it is typed into a field or a dialog is open. */
export function useShortcut(key: string, handler: () => void): void {
  const latest = useRef(handler);
  latest.current = handler;
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      if (event.key !== key || event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target as HTMLElement;
      if (target.closest("input, textarea, select, [contenteditable], dialog")) return;
      event.preventDefault();
      latest.current();
    };
    document.addEventListener("keydown", listen);
    return () => document.removeEventListener("keydown", listen);
  }, [key]);
}

/** Returns the present time, which changes every so often. */
export function useNow(intervalMs: number): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), intervalMs);
    return () => clearInterval(timer);
  }, [intervalMs]);
  return now;
}
