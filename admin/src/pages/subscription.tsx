// One subscription: its state, its wake and its delivery, and the streams that it follows.

import { useState } from "preact/hooks";
import { actOnSubscription, api, type LinkedStream, type SubscriptionDetail } from "../api";
import { count, duration, relative, time } from "../format";
import { messageOf } from "../http";
import { useNow, useQuery, useTitle } from "../hooks";
import { Badge, Button, Empty, QueryState } from "../parts/controls";
import { DeleteSubscription } from "../parts/delete";
import { Refresh, Trash } from "../parts/icons";
import { Paging } from "../parts/paging";
import { Stat } from "../parts/stat";
import { toast } from "../parts/toasts";
import { go, Link } from "../router";
import { readableName, streamPage, subscriptionPage } from "../streams/names";
import { shortOffset } from "../streams/offsets";

const pollMs = 3_000;

export function SubscriptionPage({ id, query }: { id: string; query: URLSearchParams }) {
  useTitle(readableName(id));
  const after = query.get("after") ?? undefined;
  const detail = useQuery(
    `subscription/${id}/${after ?? ""}`,
    (signal) => api.subscription(id, after, signal),
    pollMs,
  );
  const { value, failure, reload } = detail;
  return (
    <>
      <header class="page-head">
        <h1 class="breaks">{readableName(id)}</h1>
        {value !== undefined && <State detail={value} />}
        {value !== undefined && <Actions id={id} reload={reload} />}
      </header>
      <QueryState query={detail}>
        {failure?.code === "SUBSCRIPTION_NOT_FOUND" && (
          <Empty title="There is no subscription of this id">
            <Link to="/admin/subscriptions">All subscriptions</Link>
          </Empty>
        )}
      </QueryState>
      {value !== undefined && (
        <>
          {value.description !== null && <p class="breaks">{value.description}</p>}
          {value.webhookUrl !== null && (
            <p class="breaks">
              <span class="quiet">Webhook</span> <code>{value.webhookUrl}</code>
            </p>
          )}
          {value.lastError !== null && (
            <div class="notice bad">
              <div>
                <strong>Last error</strong>
                <p>{value.lastError}</p>
              </div>
            </div>
          )}
          <Facts detail={value} />
          <Linked
            streams={value.streams}
            next={value.hasMore ? value.nextCursor : undefined}
            after={after}
            path={subscriptionPage(id)}
          />
        </>
      )}
    </>
  );
}

const tones = { creating: "warn", idle: "quiet", waking: "accent", live: "good" } as const;

function State({ detail: { state, status, type } }: { detail: SubscriptionDetail }) {
  return (
    <>
      <Badge tone={tones[state]}>{state}</Badge>
      {status === "failed" && <Badge tone="bad">failed</Badge>}
      <span class="quiet type">{type}</span>
    </>
  );
}

function Actions({ id, reload }: { id: string; reload: () => void }) {
  const [isDoomed, setDoomed] = useState(false);
  const retry = async () => {
    try {
      const answer = await actOnSubscription(id, "retry");
      const { retried } = (await answer.json()) as { retried: boolean };
      toast(retried ? "The next attempt has begun." : "No delivery waits for an attempt.");
      reload();
    } catch (error) {
      toast(messageOf(error), true);
    }
  };
  return (
    <div class="actions">
      <Button onClick={retry}>
        <Refresh /> Retry now
      </Button>
      <Button kind="danger" onClick={() => setDoomed(true)}>
        <Trash /> Delete
      </Button>
      {isDoomed && (
        <DeleteSubscription
          name={id}
          onClose={() => setDoomed(false)}
          onDeleted={() => go("/admin/subscriptions")}
        />
      )}
    </div>
  );
}

function Facts({ detail }: { detail: SubscriptionDetail }) {
  const now = useNow(1_000);
  const { pattern, wakeStream, worker, leaseEndsAt } = detail;
  const { attemptBeganAt, nextAttemptAt, createdAt } = detail;
  const when = (at: number) => <span title={time(at)}>{relative(at, now)}</span>;
  return (
    <dl class="stats facts">
      <Stat label="Follows">
        {pattern === null ? "named streams" : <code>{readableName(pattern)}</code>}
      </Stat>
      {wakeStream !== null && (
        <Stat label="Wake stream">
          <Link to={streamPage(wakeStream)}>{readableName(wakeStream)}</Link>
        </Stat>
      )}
      <Stat label="Streams" note={`${count(detail.pendingCount)} pending`}>
        {count(detail.streamCount)}
      </Stat>
      <Stat label="Generation">{count(detail.generation)}</Stat>
      <Stat label="Lease ends" note={`${duration(detail.leaseTtlMs)} each`}>
        {leaseEndsAt === null ? "no lease" : when(leaseEndsAt)}
      </Stat>
      {worker !== null && <Stat label="Worker">{worker}</Stat>}
      <Stat label="Failures">{count(detail.failures)}</Stat>
      <Stat label="Next attempt">
        {attemptBeganAt !== null
          ? "under way"
          : nextAttemptAt === null
            ? "none is due"
            : when(nextAttemptAt)}
      </Stat>
      <Stat label="Created">{when(createdAt)}</Stat>
    </dl>
  );
}

interface LinkedProps {
  streams: LinkedStream[];
  path: string;
  after: string | undefined;
  next: string | undefined;
}

function Linked({ streams, path, after, next }: LinkedProps) {
  return (
    <section class="panel" aria-labelledby="linked">
      <header>
        <h2 id="linked">Streams</h2>
      </header>
      {streams.length === 0 ? (
        <Empty title={after === undefined ? "It follows no stream yet" : "No more streams"} />
      ) : (
        <div class="scrolls" tabIndex={0} role="region" aria-label="Cursors">
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Name</th>
                <th scope="col">Followed</th>
                <th scope="col">Acknowledged</th>
                <th scope="col">Tail</th>
                <th scope="col">State</th>
              </tr>
            </thead>
            <tbody>
              {streams.map((stream) => (
                <tr key={stream.streamId}>
                  <td class="name">
                    <Link to={streamPage(stream.streamId)} title={stream.streamId}>
                      {readableName(stream.streamId)}
                    </Link>
                  </td>
                  <td class="quiet">{stream.linkType === "glob" ? "by pattern" : "by name"}</td>
                  <td>
                    <Place offset={stream.ackedOffset} />
                  </td>
                  <td>
                    <Place offset={stream.tailOffset} />
                  </td>
                  <td>
                    <Progress stream={stream} />
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
  return <code title={offset}>{offset === "-1" ? "start" : shortOffset(offset)}</code>;
}

function Progress({ stream }: { stream: LinkedStream }) {
  if (stream.linking) return <Badge tone="warn">being linked</Badge>;
  if (stream.tailOffset === null) return <Badge tone="quiet">no stream</Badge>;
  if (stream.pending) return <Badge tone="accent">pending</Badge>;
  return <Badge tone="good">up to date</Badge>;
}
