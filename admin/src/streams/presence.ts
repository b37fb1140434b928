// Presence. Each page writes to the stream `__presence__` which stream its user looks at, and that
// the user types. It writes only while the user has presence switched on.

import { act } from "../api";
import { Failure, pause, untilVisible } from "../http";
import { follow } from "./follow";
import { elementsOf } from "./json";
import { presenceName } from "./names";
import { randomName } from "./producer";

/** What a page tells of its user. */
export interface Viewer {
  userId: string;
  sessionId: string;
  route: string;
  streamPath?: string;
  isTyping: boolean;
  lastSeen: number;
  /** The number of one of the colours. */
  color: number;
}

export const colors = 7;

const heartbeatMs = 50_000;
const seenMs = 60_000;
const typingMs = 3_000;
const typingSaidMs = 2_000;
const retryMs = 10_000;
/** The stream ends this long after its creation, so that it stays small. */
const streamMs = 3_600_000;

const identityKey = "durable-streams/presence";

class Presence {
  /** The last message of each page, by its session. */
  private viewers = new Map<string, Viewer>();
  private readonly sessionId = randomName();
  private run: AbortController | undefined;
  private place: { route: string; streamPath?: string } = { route: "/admin" };
  private typingSaid = 0;
  private readonly listeners = new Set<() => void>();

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  get isOn(): boolean {
    return this.run !== undefined;
  }

  /** Goes on if the user had switched it on. */
  resume(): void {
    if (localStorage.getItem(identityKey) !== null) this.switchOn();
  }

  switchOn(): void {
    if (this.run !== undefined) return;
    if (localStorage.getItem(identityKey) === null) {
      localStorage.setItem(identityKey, randomName());
    }
    this.run = new AbortController();
    const { signal } = this.run;
    // The first message creates the stream if it does not exist.
    this.beat(signal, () => void this.watch(signal).catch(() => {})).catch(() => {});
    this.changed();
  }

  switchOff(): void {
    localStorage.removeItem(identityKey);
    this.run?.abort();
    this.run = undefined;
    this.viewers.clear();
    this.changed();
  }

  /** Tells where the user is. */
  at(route: string, streamPath: string | undefined): void {
    if (route === this.place.route && streamPath === this.place.streamPath) return;
    this.place = streamPath === undefined ? { route } : { route, streamPath };
    if (this.isOn) this.say(false).catch(() => {});
  }

  /** Tells that the user is typing, not more often than the others need. */
  typing(): void {
    if (!this.isOn || Date.now() - this.typingSaid < typingSaidMs) return;
    this.typingSaid = Date.now();
    this.say(true).catch(() => {});
  }

  /** Returns the other pages that show a stream. */
  viewersOf(streamPath: string, now: number): Viewer[] {
    return [...this.viewers.values()].filter(
      (viewer) =>
        viewer.streamPath === streamPath &&
        viewer.sessionId !== this.sessionId &&
        now - viewer.lastSeen < seenMs,
    );
  }

  isTyping(viewer: Viewer, now: number): boolean {
    return viewer.isTyping && now - viewer.lastSeen < typingMs;
  }

  private async beat(signal: AbortSignal, begun: () => void): Promise<void> {
    for (let isFirst = true; ; isFirst = false) {
      await untilVisible(signal);
      // A failed message needs no retry, because the next one says the same.
      await this.say(false).catch(() => {});
      if (isFirst) begun();
      await pause(heartbeatMs, signal);
    }
  }

  private async say(isTyping: boolean): Promise<void> {
    const userId = localStorage.getItem(identityKey) ?? "";
    const viewer: Viewer = {
      userId,
      sessionId: this.sessionId,
      ...this.place,
      isTyping,
      lastSeen: Date.now(),
      color: [...userId].reduce((sum, character) => sum + character.charCodeAt(0), 0) % colors,
    };
    const type = { "Content-Type": "application/json" };
    const append = () => act(presenceName, "append", type, JSON.stringify([viewer]));
    try {
      await append();
    } catch (error) {
      if (!(error instanceof Failure) || error.status !== 404) throw error;
      const end = new Date(Date.now() + streamMs).toISOString();
      await act(presenceName, "create", { ...type, "Stream-Expires-At": end }).catch((error) => {
        // Another page has created it at the same time.
        if (!(error instanceof Failure) || error.status !== 409) throw error;
      });
      await append();
    }
  }

  private async watch(signal: AbortSignal): Promise<void> {
    for (;;) {
      try {
        await follow({
          name: presenceName,
          offset: "-1",
          signal,
          take: ({ bytes }) => {
            for (const text of elementsOf(new TextDecoder().decode(bytes))) this.take(text);
            this.changed();
          },
        });
      } catch {
        signal.throwIfAborted();
        // There is no such stream at the moment, or no token for it.
      }
      await pause(retryMs, signal);
    }
  }

  /** Takes a message, which anybody may have written. */
  private take(text: string): void {
    const viewer = JSON.parse(text) as Partial<Viewer> | null;
    if (typeof viewer?.sessionId !== "string" || typeof viewer.lastSeen !== "number") return;
    this.viewers.set(viewer.sessionId, {
      userId: String(viewer.userId),
      sessionId: viewer.sessionId,
      route: String(viewer.route),
      ...(viewer.streamPath === undefined ? {} : { streamPath: String(viewer.streamPath) }),
      isTyping: viewer.isTyping === true,
      lastSeen: Math.min(viewer.lastSeen, Date.now()),
      color: Math.abs(Math.trunc(Number(viewer.color))) % colors || 0,
    });
    for (const [session, { lastSeen }] of this.viewers) {
      if (Date.now() - lastSeen > seenMs) this.viewers.delete(session);
    }
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

export const presence = new Presence();
