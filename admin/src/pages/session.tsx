// One session: its properties, and the streams that it has subscribed to.

import { useState } from "preact/hooks";
import { api, type SessionDetail, type SubscribedStream } from "../api";
import { bytes, count, duration, relative, shortCount, time } from "../format";
import { useNow, useQuery, useTitle } from "../hooks";
import { Badge, Button, Empty, QueryState } from "../parts/controls";
import { DeleteSession } from "../parts/delete";
import { Streams, Trash } from "../parts/icons";
import { Paging } from "../parts/paging";
import { SessionEnd } from "../parts/session-end";
import { Stat } from "../parts/stat";
import { go, Link } from "../router";
import { readableName, sessionPage, streamPage } from "../streams/names";
import { shortOffset } from "../streams/offsets";

const pollMs = 3_000;
const pageEntries = 100;

export function SessionPage({ id, query }: { id: string; query: URLSearchParams }) {
  useTitle(`Session ${id}`);
  const [isDoomed, setDoomed] = useState(false);
  const after = query.get("after") ?? undefined;
  const detail = useQuery(
    `session/${id}/${after ?? ""}`,
    (signal) => api.session(id, after, pageEntries, signal),
    pollMs,
  );
  const { value, failure } = detail;
  return (
    <>
      <header class="page-head">
        <h1 class="breaks">{readableName(id)}</h1>
        <span class="quiet type">session</span>
        {value !== undefined && (
          <div class="actions">
            <Link class="button" to={streamPage(value.streamId)}>
              <Streams /> Open stream
            </Link>
            <Button kind="danger" onClick={() => setDoomed(true)}>
              <Trash /> Delete
            </Button>
          </div>
        )}
      </header>
      <QueryState query={detail}>
        {(failure?.code === "session_not_found" || failure?.code === "session_expired") && (
          <Empty
            title={
              failure.status === 410 ? "The session has expired" : "There is no session of this id"
            }
          >
            <Link to="/admin/sessions">All sessions</Link>
          </Empty>
        )}
      </QueryState>
      {value !== undefined && (
        <>
          <Facts detail={value} />
          <Subscribed
            streams={value.subscribedStreams}
            next={value.hasMore ? value.nextCursor : undefined}
            after={after}
            path={sessionPage(id)}
          />
        </>
      )}
      {isDoomed && (
        <DeleteSession
          name={id}
          onClose={() => setDoomed(false)}
          onDeleted={() => go("/admin/sessions")}
        />
      )}
    </>
  );
}

function Facts({ detail }: { detail: SessionDetail }) {
  const now = useNow(1_000);
  return (
    <dl class="stats facts">
      <Stat label="Ends" note={`${duration(detail.ttlSeconds * 1000)} after the last use`}>
        <SessionEnd at={detail.expiresAt} />
      </Stat>
      <Stat label="Created">
        <span title={time(detail.createdAt)}>{relative(detail.createdAt, now)}</span>
      </Stat>
      <Stat label="Live readers">{count(detail.subscriberCount)}</Stat>
      <Stat label="Subscribed">{count(detail.subscriptionCount)}</Stat>
      <Stat label="Envelopes">{shortCount(detail.messageCount)}</Stat>
      <Stat label="Size">{bytes(detail.totalBytes)}</Stat>
      <Stat label="Tail">
        <code title={detail.tailOffset}>{shortOffset(detail.tailOffset)}</code>
      </Stat>
      <Stat label="Outbox">{detail.outboxEmpty ? "empty" : "not empty"}</Stat>
    </dl>
  );
}

interface SubscribedProps {
  streams: SubscribedStream[];
  path: string;
  after: string | undefined;
  next: string | undefined;
}

function Subscribed({ streams, path, after, next }: SubscribedProps) {
  return (
    <section class="panel" aria-labelledby="subscribed">
      <header>
        <h2 id="subscribed">Subscribed streams</h2>
      </header>
      {streams.length === 0 ? (
        <Empty title={after === undefined ? "It follows no stream" : "No more streams"} />
      ) : (
        <div class="scrolls" tabIndex={0} role="region" aria-label="Places">
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Name</th>
                <th scope="col">Began at</th>
                <th scope="col">Has all before</th>
                <th scope="col">State</th>
              </tr>
            </thead>
            <tbody>
              {streams.map(({ streamId, fromOffset, deliveredOffset, linking }) => (
                <tr key={streamId}>
                  <td class="name">
                    <Link to={streamPage(streamId)} title={streamId}>
                      {readableName(streamId)}
                    </Link>
                  </td>
                  <td>
                    <Place offset={fromOffset} />
                  </td>
                  <td>
                    <Place offset={deliveredOffset} />
                  </td>
                  <td>
                    {linking ? (
                      <Badge tone="warn">being linked</Badge>
                    ) : (
                      <Badge tone="good">follows</Badge>
                    )}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <Paging path={path} after={after} next={next} />
    </section>
  );
}

function Place({ offset }: { offset: string | null }) {
  if (offset === null) return <span class="quiet">–</span>;
  return <code title={offset}>{shortOffset(offset)}</code>;
}
