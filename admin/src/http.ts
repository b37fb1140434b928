// Requests with the token of this session, and failures with the server's reason.

/** Which of the two tokens a request carries: that of the admin API, or that of streams. */
export type Audience = "admin" | "streams";

const keys: Record<Audience, string> = {
  admin: "durable-streams/admin-token",
  streams: "durable-streams/stream-token",
};

/** Returns the token that the user has entered in this tab. Streams fall back to the admin's. */
export function token(audience: Audience): string {
  const own = sessionStorage.getItem(keys[audience]);
  return own ?? (audience === "streams" ? (sessionStorage.getItem(keys.admin) ?? "") : "");
}

export function hasOwnToken(audience: Audience): boolean {
  return sessionStorage.getItem(keys[audience]) !== null;
}

/** Keeps a token for the life of this tab. An empty one is forgotten. */
export function keepToken(audience: Audience, value: string): void {
  if (value === "") sessionStorage.removeItem(keys[audience]);
  else sessionStorage.setItem(keys[audience], value);
  for (const listener of tokenListeners) listener();
}

const tokenListeners = new Set<() => void>();

/** Calls the listener whenever a token changes. Returns what ends that. */
export function onTokenChange(listener: () => void): () => void {
  tokenListeners.add(listener);
  return () => tokenListeners.delete(listener);
}

/** A request that was not answered with success. */
export class Failure extends Error {
  constructor(
    message: string,
    /** The status, or 0 if there was no answer. */
    readonly status: number,
    readonly headers: Headers = new Headers(),
    readonly code: string = "",
    readonly audience: Audience = "admin",
  ) {
    super(message);
  }

  /** Returns whether the same request may succeed later. */
  get isTransient(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  get needsToken(): boolean {
    return this.status === 401;
  }
}

const endedSession = "The sign-in of this page has ended. Reload the page to sign in again.";

/** Sends a request. Returns the answer if its status is below 300. */
export async function send(
  audience: Audience,
  path: string,
  init: RequestInit = {},
): Promise<Response> {
  const headers = new Headers(init.headers);
  const secret = token(audience);
  if (secret !== "") headers.set("Authorization", `Bearer ${secret}`);
  let answer: Response;
  try {
    // A redirect leads to a sign-in, which a page cannot follow.
    answer = await fetch(path, { ...init, headers, redirect: "manual", cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Failure("The server cannot be reached.", 0, undefined, "", audience);
  }
  if (answer.type === "opaqueredirect") {
    throw new Failure(endedSession, 403, undefined, "", audience);
  }
  if (answer.status >= 200 && answer.status < 300) return answer;
  const [reason, code] = await reasonOf(answer);
  throw new Failure(reason, answer.status, answer.headers, code, audience);
}

/** Returns the reason in a refusal, and its code. */
async function reasonOf(answer: Response): Promise<[string, string]> {
  const text = await answer.text().catch(() => "");
  const fallback = `The server answered ${answer.status}.`;
  try {
    const { error } = JSON.parse(text) as { error?: unknown };
    if (typeof error === "string") return [error, ""];
    if (typeof error === "object" && error !== null) {
      const { message, code } = error as { message?: unknown; code?: unknown };
      return [String(message ?? fallback), String(code ?? "")];
    }
  } catch {
    // It is not JSON.
  }
  const isShort = text.length > 0 && text.length < 300 && !text.includes("<");
  return [isShort ? text : fallback, ""];
}

/** Returns what to show of any error. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Waits, or throws when the signal aborts. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

/** Waits until the page can be seen, so that hidden tabs hold no connections. */
export function untilVisible(signal: AbortSignal): Promise<void> {
  if (document.visibilityState === "visible") return Promise.resolve();
  return new Promise((resolve, reject) => {
    const end = () => {
      document.removeEventListener("visibilitychange", check);
      signal.removeEventListener("abort", stop);
    };
    const check = () => {
      if (document.visibilityState !== "visible") return;
      end();
      resolve();
    };
    const stop = () => {
      end();
      reject(signal.reason);
    };
    document.addEventListener("visibilitychange", check);
    signal.addEventListener("abort", stop, { once: true });
  });
}
