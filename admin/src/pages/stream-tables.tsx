// The tables about a stream: segments, producers, alarm and outbox.

import { useEffect, useState } from "preact/hooks";
import { api, type Page, type StreamDetail } from "../api";
import { bytes, count, relative, time } from "../format";
import { Failure } from "../http";
import { useNow, useQuery } from "../hooks";
import { Badge, Button, Empty, FailureNotice } from "../parts/controls";
import { shortOffset } from "../streams/offsets";

const pollMs = 5_000;

type Load<Entry> = (cursor: string | undefined, signal: AbortSignal) => Promise<Page<Entry>>;

/** Loads the first page again and again, and further pages when they are asked for. */
function usePages<Entry>(key: string, load: Load<Entry>) {
  const first = useQuery(key, (signal) => load(undefined, signal), pollMs);
  const [later, setLater] = useState<{ key: string; entries: Entry[]; next: string | undefined }>();
  const [failure, setFailure] = useState<Failure>();
  const isCurrent = later?.key === key;
  useEffect(() => setFailure(undefined), [key]);
  const entries = [...(first.value?.entries ?? []), ...(isCurrent ? later.entries : [])];
  const next = isCurrent ? later.next : first.value?.next;
  const loadMore = async () => {
    try {
      const page = await load(next, new AbortController().signal);
      setLater({
        key,
        entries: [...(isCurrent ? later.entries : []), ...page.entries],
        next: page.next,
      });
    } catch (error) {
      setFailure(error instanceof Failure ? error : new Failure(String(error), 0));
    }
  };
  return {
    entries,
    isLoaded: first.value !== undefined,
    failure: failure ?? first.failure,
    reload: first.reload,
    loadMore: next === undefined ? undefined : loadMore,
  };
}

function More({ loadMore }: { loadMore: (() => void) | undefined }) {
  return loadMore === undefined ? null : (
    <p class="more">
      <Button onClick={loadMore}>Show more</Button>
    </p>
  );
}

export function Segments({ detail }: { detail: StreamDetail }) {
  const { streamId, incarnation } = detail;
  const { entries, isLoaded, failure, reload, loadMore } = usePages(
    // A seal or a put shows at once.
    `segments/${incarnation}/${detail.segmentCount}/${detail.nextToStore}`,
    (after, signal) => api.segments(streamId, after, signal),
  );
  const now = useNow(10_000);
  if (failure !== undefined) return <FailureNotice failure={failure} retry={reload} />;
  if (!isLoaded) return <p class="hint">Loading…</p>;
  if (entries.length === 0) {
    return (
      <Empty title="No sealed segments">
        <p>The open segment is sealed when it is large or old enough, or with “Seal now”.</p>
      </Empty>
    );
  }
  return (
    <div class="scrolls" tabIndex={0} role="region" aria-label="Segments">
      <table class="table">
        <thead>
          <tr>
            <th scope="col" class="number">
              Number
            </th>
            <th scope="col">Offsets</th>
            <th scope="col" class="number">
              Messages
            </th>
            <th scope="col" class="number">
              Size
            </th>
            <th scope="col">Created</th>
            <th scope="col">Stored in the cold tier</th>
          </tr>
        </thead>
        <tbody>
          {entries.map((segment) => (
            <tr key={segment.readSeq}>
              <td class="number">{segment.readSeq}</td>
              <td>
                <code title={`${segment.startOffset} to ${segment.endOffset}`}>
                  {shortOffset(segment.startOffset)} – {shortOffset(segment.endOffset)}
                </code>
              </td>
              <td class="number">{count(segment.messageCount)}</td>
              <td class="number">{bytes(segment.sizeBytes)}</td>
              <td class="quiet" title={time(segment.createdAt)}>
                {relative(segment.createdAt, now)}
              </td>
              <td>
                {segment.r2Key === null ? (
                  <Badge tone="warn">
                    not yet, {segment.attempts} {segment.attempts === 1 ? "attempt" : "attempts"}
                  </Badge>
                ) : (
                  <code class="quiet breaks">{segment.r2Key}</code>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <More loadMore={loadMore} />
    </div>
  );
}

export function Producers({ detail: { streamId, incarnation } }: { detail: StreamDetail }) {
  const { entries, isLoaded, failure, reload, loadMore } = usePages(
    `producers/${incarnation}`,
    (cursor, signal) => api.producers(streamId, cursor, signal),
  );
  const now = useNow(1_000);
  if (failure !== undefined) return <FailureNotice failure={failure} retry={reload} />;
  if (!isLoaded) return <p class="hint">Loading…</p>;
  if (entries.length === 0) {
    return (
      <Empty title="No producers">
        <p>Appends with Producer-Id are listed here, with the last accepted number.</p>
      </Empty>
    );
  }
  return (
    <div class="scrolls" tabIndex={0} role="region" aria-label="Producers">
      <table class="table">
        <thead>
          <tr>
            <th scope="col">Producer</th>
            <th scope="col" class="number">
              Epoch
            </th>
            <th scope="col" class="number">
              Last number
            </th>
            <th scope="col">Last append</th>
          </tr>
        </thead>
        <tbody>
          {entries.map(({ producerId, epoch, seq, usedAt }) => (
            <tr key={producerId}>
              <td class="breaks">{producerId}</td>
              <td class="number">{count(epoch)}</td>
              <td class="number">{count(seq)}</td>
              <td class="quiet" title={time(usedAt)}>
                {relative(usedAt, now)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      <More loadMore={loadMore} />
    </div>
  );
}

const reasons: Record<string, string> = {
  expiry: "the stream ends",
  "segment-age": "the open segment is old enough to be sealed",
  put: "a put into the cold tier is retried or given up",
  task: "a task of the outbox is due",
  reply: "an answer of another stream is late",
  fork: "a fork takes too long",
  rotation: "a segment is sealed",
};

const reasonText = (reason: string | null) =>
  reason === null ? "set by an earlier instance" : (reasons[reason] ?? reason);

export function Internals({ detail }: { detail: StreamDetail }) {
  const now = useNow(1_000);
  const { alarm, timers } = detail;
  return (
    <div class="columns even">
      <section class="panel" aria-labelledby="alarm">
        <header>
          <h2 id="alarm">Alarm</h2>
          <span class="quiet">
            {alarm === null ? (
              "not set"
            ) : (
              <span title={time(alarm.at)}>{relative(alarm.at, now)}</span>
            )}
          </span>
        </header>
        {alarm !== null && <p>It wakes the stream because {reasonText(alarm.reason)}.</p>}
        {timers.length === 0 ? (
          <Empty title="No timers" />
        ) : (
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Reason</th>
                <th scope="col">Due</th>
              </tr>
            </thead>
            <tbody>
              {timers.map(({ reason, at }) => (
                <tr key={reason}>
                  <td>{reasonText(reason)}</td>
                  <td class="quiet" title={time(at)}>
                    {relative(at, now)}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        )}
      </section>
      <Outbox detail={detail} now={now} />
    </div>
  );
}

function Outbox({ detail: { streamId, incarnation }, now }: { detail: StreamDetail; now: number }) {
  const { entries, isLoaded, failure, reload, loadMore } = usePages(
    `outbox/${incarnation}`,
    (cursor, signal) => api.outbox(streamId, cursor, signal),
  );
  return (
    <section class="panel" aria-labelledby="outbox">
      <header>
        <h2 id="outbox">Outbox</h2>
        {isLoaded && (
          <span class="quiet">{entries.length === 0 ? "empty" : count(entries.length)}</span>
        )}
      </header>
      {failure !== undefined && <FailureNotice failure={failure} retry={reload} />}
      {isLoaded && entries.length === 0 && (
        <Empty title="Nothing is left to do">
          <p>The registry, the index and the cold tier know everything about this stream.</p>
        </Empty>
      )}
      {entries.length > 0 && (
        <div class="scrolls" tabIndex={0} role="region" aria-label="Tasks">
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Queue</th>
                <th scope="col">Task</th>
                <th scope="col">Due</th>
                <th scope="col" class="number">
                  Failures
                </th>
              </tr>
            </thead>
            <tbody>
              {entries.map(({ queue, id, kind, dueAt, failures }) => (
                <tr key={`${queue}/${id}/${kind}`}>
                  <td class="breaks">{queue}</td>
                  <td>{kind}</td>
                  <td class="quiet">{dueAt === 0 ? "at once" : relative(dueAt, now)}</td>
                  <td class="number">{count(failures)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <More loadMore={loadMore} />
    </section>
  );
}
