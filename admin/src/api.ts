// The admin API, as docs/admin-api.md describes it.

import { send } from "./http";

export interface StreamEntry {
  streamId: string;
  contentType: string;
  closed: boolean;
  createdAt: number;
  expiresAt: number | null;
  ttlSeconds: number | null;
  forkedFrom: string | null;
}

export interface OpenSegment {
  readSeq: number;
  messageCount: number;
  sizeBytes: number;
  openedAt: number;
}

export interface Timer {
  reason: string | null;
  at: number;
}

export interface StreamDetail extends StreamEntry {
  incarnation: string;
  forkOffset: string | null;
  inheritedSegments: number;
  forkCount: number;
  tailOffset: string;
  segmentCount: number;
  messageCount: number;
  totalBytes: number;
  subscriberCount: number;
  /** The sessions that follow it. */
  sessionCount: number;
  openSegment: OpenSegment | null;
  nextToStore: number | null;
  outboxEmpty: boolean;
  alarm: Timer | null;
  timers: Timer[];
}

export interface Segment {
  readSeq: number;
  startOffset: string;
  endOffset: string;
  r2Key: string | null;
  createdAt: number;
  sizeBytes: number;
  messageCount: number;
  attempts: number;
}

export interface Producer {
  producerId: string;
  epoch: number;
  seq: number;
  usedAt: number;
}

export interface Task {
  queue: string;
  id: number;
  kind: string;
  dueAt: number;
  failures: number;
}

export interface Bucket {
  timestamp: number;
  messages: number;
  bytes: number;
}

export interface Throughput {
  buckets: Bucket[];
  avgMessagesPerMinute: number;
  periodMinutes: number;
}

export interface HotStream {
  streamId: string;
  messageCount: number;
  byteCount: number;
}

export interface SystemMetrics {
  messagesLast5Min: number;
  bytesLast5Min: number;
  messagesPerSecond: number;
  /** Null where nobody counts them. */
  activeSubscribers: number | null;
  /** When the server began to count, if it counts itself. */
  since: number | null;
}

export interface Service {
  available: boolean;
  latencyMs: number;
  error: string | null;
}

export interface Health {
  status: string;
  timestamp: number;
  services: Record<string, Service>;
}

export interface SubscriptionEntry {
  subscriptionId: string;
  pattern: string | null;
  createdAt: number;
}

export interface LinkedStream {
  streamId: string;
  linkType: "explicit" | "glob";
  ackedOffset: string;
  /** Null if there is no stream of this name. */
  tailOffset: string | null;
  pending: boolean;
  linking: boolean;
}

export interface SubscriptionDetail {
  subscriptionId: string;
  incarnation: string;
  type: "webhook" | "pull-wake";
  pattern: string | null;
  webhookUrl: string | null;
  wakeStream: string | null;
  description: string | null;
  createdAt: number;
  leaseTtlMs: number;
  status: "active" | "failed";
  state: "creating" | "idle" | "waking" | "live";
  generation: number;
  worker: string | null;
  leaseEndsAt: number | null;
  failures: number;
  lastError: string | null;
  attemptBeganAt: number | null;
  nextAttemptAt: number | null;
  outboxEmpty: boolean;
  streamCount: number;
  pendingCount: number;
  streams: LinkedStream[];
  nextCursor?: string;
  hasMore: boolean;
}

export interface SessionEntry {
  sessionId: string;
  createdAt: number;
  ttlSeconds: number;
}

export interface SubscribedStream {
  streamId: string;
  /** Where the subscription began. Null while it is linked. */
  fromOffset: string | null;
  /** The session has everything before it. */
  deliveredOffset: string | null;
  linking: boolean;
}

export interface SessionDetail extends SessionEntry {
  streamId: string;
  expiresAt: number;
  tailOffset: string;
  messageCount: number;
  totalBytes: number;
  subscriberCount: number;
  outboxEmpty: boolean;
  subscriptionCount: number;
  subscribedStreams: SubscribedStream[];
  nextCursor?: string;
  hasMore: boolean;
}

/** A page of a list, and what continues it. */
export interface Page<Entry> {
  entries: Entry[];
  next: string | undefined;
}

async function get<T>(
  path: string,
  query: Record<string, string | number | undefined>,
  signal: AbortSignal,
): Promise<T> {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
  const url = `/admin/api/${path}${given.length > 0 ? `?${search}` : ""}`;
  return (await send("admin", url, { signal })).json() as Promise<T>;
}

/** Reads a page whose entries are in the member `list` of the answer. */
async function page<Entry>(
  path: string,
  list: string,
  query: Record<string, string | number | undefined>,
  signal: AbortSignal,
): Promise<Page<Entry>> {
  const answer = await get<Record<string, unknown>>(path, query, signal);
  const next = answer.hasMore === true ? String(answer.nextCursor) : undefined;
  return { entries: answer[list] as Entry[], next };
}

const ofStream = (id: string, what: string) => `streams/${id}/${what}`;

export const api = {
  health: (signal: AbortSignal) => get<Health>("health", {}, signal),
  system: (signal: AbortSignal) => get<SystemMetrics>("metrics/system", {}, signal),
  hot: async (minutes: number, limit: number, signal: AbortSignal) =>
    (await get<{ streams: HotStream[] }>("metrics/hot", { minutes, limit }, signal)).streams,
  streams: (prefix: string, cursor: string | undefined, limit: number, signal: AbortSignal) =>
    page<StreamEntry>("streams", "streams", { prefix, cursor, limit }, signal),
  detail: (id: string, signal: AbortSignal) =>
    get<StreamDetail>(ofStream(id, "detail"), {}, signal),
  segments: (id: string, after: string | undefined, signal: AbortSignal) =>
    page<Segment>(ofStream(id, "segments"), "segments", { after }, signal),
  producers: (id: string, cursor: string | undefined, signal: AbortSignal) =>
    page<Producer>(ofStream(id, "producers"), "producers", { cursor }, signal),
  outbox: (id: string, cursor: string | undefined, signal: AbortSignal) =>
    page<Task>(ofStream(id, "outbox"), "tasks", { cursor }, signal),
  throughput: (id: string, signal: AbortSignal) =>
    get<Throughput>(`metrics/streams/${id}/throughput`, { minutes: 60 }, signal),
  subscriptions: (cursor: string | undefined, limit: number, signal: AbortSignal) =>
    page<SubscriptionEntry>("subscriptions", "subscriptions", { cursor, limit }, signal),
  subscription: (id: string, cursor: string | undefined, signal: AbortSignal) =>
    get<SubscriptionDetail>(`subscriptions/${id}`, { cursor }, signal),
  sessions: (cursor: string | undefined, limit: number, signal: AbortSignal) =>
    page<SessionEntry>("sessions", "sessions", { cursor, limit }, signal),
  session: (id: string, cursor: string | undefined, limit: number, signal: AbortSignal) =>
    get<SessionDetail>(`sessions/${id}`, { cursor, limit }, signal),
};

export type Action = "create" | "append" | "close" | "delete" | "seal";

/** Carries out an action on a stream. */
export function act(
  id: string,
  action: Action,
  headers: Record<string, string> = {},
  body: BodyInit | null = null,
): Promise<Response> {
  return send("admin", `/admin/api/${ofStream(id, action)}`, { method: "POST", headers, body });
}

/** Carries out an action on a subscription. */
export function actOnSubscription(id: string, action: "retry" | "delete"): Promise<Response> {
  return send("admin", `/admin/api/subscriptions/${id}/${action}`, { method: "POST" });
}

export function deleteSession(id: string): Promise<Response> {
  return send("admin", `/admin/api/sessions/${id}/delete`, { method: "POST" });
}
