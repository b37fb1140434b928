// One stream: its properties, its content, and what it is made of.

import { useState } from "preact/hooks";
import { act, api, type StreamDetail } from "../api";
import { bytes, count, duration, relative, shortCount, time } from "../format";
import { useNow, useQuery, useTitle } from "../hooks";
import { Badge, Button, CommandDialog, Confirm, Empty, QueryState } from "../parts/controls";
import { openCreateDialog } from "../parts/create";
import { DeleteStream } from "../parts/delete";
import { Archive, Fork, Lock, Plus, Terminal, Trash } from "../parts/icons";
import { Sparkline } from "../parts/sparkline";
import { Stat } from "../parts/stat";
import { toast } from "../parts/toasts";
import { go, Link } from "../router";
import { readCommands } from "../streams/curl";
import {
  isSession,
  isWrittenByServer,
  readableName,
  sessionPage,
  streamPage,
} from "../streams/names";
import { shortOffset } from "../streams/offsets";
import { Internals, Producers, Segments } from "./stream-tables";
import { Messages } from "./messages";

const pollMs = 3_000;
const throughputMs = 10_000;

const tabs = {
  messages: "Messages",
  segments: "Segments",
  producers: "Producers",
  internals: "Alarm and outbox",
} as const;

type Tab = keyof typeof tabs;

export function StreamPage({ name, query }: { name: string; query: URLSearchParams }) {
  useTitle(readableName(name));
  const detail = useQuery(`detail/${name}`, (signal) => api.detail(name, signal), pollMs);
  const throughput = useQuery(
    `throughput/${name}`,
    (signal) => api.throughput(name, signal),
    throughputMs,
  );
  const asked = query.get("tab") ?? "";
  const tab: Tab = asked in tabs ? (asked as Tab) : "messages";
  const { value, failure } = detail;
  return (
    <>
      <header class="page-head">
        <h1 class="breaks">{readableName(name)}</h1>
        {value !== undefined && <State detail={value} />}
        {value !== undefined && <Actions detail={value} reload={detail.reload} />}
      </header>
      <QueryState query={detail}>
        {failure?.code === "stream_not_found" && (
          <Empty title="There is no stream of this name">
            <Button onClick={() => openCreateDialog({ name: readableName(name) })}>
              <Plus /> New stream
            </Button>
          </Empty>
        )}
      </QueryState>
      {value !== undefined && (
        <>
          <Facts detail={value} />
          {throughput.value !== undefined && <Sparkline throughput={throughput.value} />}
          <Tabs name={name} tab={tab} />
          {tab === "messages" && (
            <Messages key={value.incarnation} detail={value} reload={detail.reload} />
          )}
          {tab === "segments" && <Segments detail={value} />}
          {tab === "producers" && <Producers detail={value} />}
          {tab === "internals" && <Internals detail={value} />}
        </>
      )}
    </>
  );
}

function State({ detail: { closed, contentType } }: { detail: StreamDetail }) {
  return (
    <>
      {closed ? <Badge tone="quiet">closed</Badge> : <Badge tone="good">open</Badge>}
      <span class="quiet type">{contentType}</span>
    </>
  );
}

type Asked = "close" | "delete" | "curl" | undefined;

function Actions({ detail, reload }: { detail: StreamDetail; reload: () => void }) {
  const [asked, setAsked] = useState<Asked>();
  const { streamId: name, contentType, closed, tailOffset } = detail;
  const none = () => setAsked(undefined);
  const seal = async () => {
    try {
      const answer = await act(name, "seal");
      const { sealed } = (await answer.json()) as { sealed: boolean };
      toast(sealed ? "The open segment is sealed." : "The open segment is empty.");
      reload();
    } catch (error) {
      toast(error instanceof Error ? error.message : String(error), true);
    }
  };
  const close = async () => {
    await act(name, "close");
    reload();
  };
  const isWritable = !isWrittenByServer(name);
  return (
    <div class="actions">
      {isSession(name) && (
        <Link class="button" to={sessionPage(name.slice(name.indexOf("/") + 1))}>
          Session
        </Link>
      )}
      <Button onClick={() => setAsked("curl")}>
        <Terminal /> Copy as curl
      </Button>
      {isWritable && (
        <>
          <Button
            onClick={() => openCreateDialog({ source: { name, contentType, offset: tailOffset } })}
          >
            <Fork /> Fork
          </Button>
          <Button onClick={seal}>
            <Archive /> Seal now
          </Button>
          {!closed && (
            <Button onClick={() => setAsked("close")}>
              <Lock /> Close
            </Button>
          )}
          <Button kind="danger" onClick={() => setAsked("delete")}>
            <Trash /> Delete
          </Button>
        </>
      )}
      {asked === "curl" && <CommandDialog commands={readCommands(detail)} onClose={none} />}
      {asked === "close" && (
        <Confirm title="Close stream?" action="Close stream" run={close} onClose={none}>
          <p>
            <b class="breaks">{readableName(name)}</b> takes no more appends after that. This cannot
            be undone.
          </p>
        </Confirm>
      )}
      {asked === "delete" && (
        <DeleteStream name={name} onClose={none} onDeleted={() => go("/admin/streams")} />
      )}
    </div>
  );
}

function Facts({ detail }: { detail: StreamDetail }) {
  const now = useNow(1_000);
  const { openSegment, inheritedSegments, forkCount } = detail;
  const isJson = detail.contentType.startsWith("application/json");
  return (
    <dl class="stats facts">
      <Stat label={isJson ? "Messages" : "Appends"}>{shortCount(detail.messageCount)}</Stat>
      <Stat label="Size">{bytes(detail.totalBytes)}</Stat>
      <Stat
        label="Segments"
        note={inheritedSegments > 0 ? `and ${count(inheritedSegments)} inherited` : undefined}
      >
        {shortCount(detail.segmentCount)} sealed
      </Stat>
      <Stat label="Open segment">
        {openSegment === null ? "empty" : bytes(openSegment.sizeBytes)}
      </Stat>
      <Stat label="Live readers">{count(detail.subscriberCount)}</Stat>
      <Stat label="Tail">
        <code title={detail.tailOffset}>{shortOffset(detail.tailOffset)}</code>
      </Stat>
      <Stat label="Created">
        <span title={time(detail.createdAt)}>{relative(detail.createdAt, now)}</span>
      </Stat>
      <Stat
        label="Ends"
        note={
          detail.ttlSeconds === null
            ? undefined
            : `${duration(detail.ttlSeconds * 1000)} after the last use`
        }
      >
        {detail.expiresAt === null ? (
          "never"
        ) : (
          <span title={time(detail.expiresAt)}>{relative(detail.expiresAt, now)}</span>
        )}
      </Stat>
      {detail.sessionCount > 0 && (
        <Stat label="Sessions" note="follow it">
          {count(detail.sessionCount)}
        </Stat>
      )}
      {forkCount > 0 && <Stat label="Forks">{count(forkCount)}</Stat>}
      {detail.forkedFrom !== null && (
        <Stat
          label="Fork of"
          note={detail.forkOffset === null ? undefined : `at ${shortOffset(detail.forkOffset)}`}
        >
          <Link to={streamPage(detail.forkedFrom)}>{readableName(detail.forkedFrom)}</Link>
        </Stat>
      )}
    </dl>
  );
}

function Tabs({ name, tab }: { name: string; tab: Tab }) {
  return (
    <nav class="tabs" aria-label="About this stream">
      {Object.entries(tabs).map(([key, label]) => (
        <Link
          key={key}
          to={key === "messages" ? streamPage(name) : `${streamPage(name)}?tab=${key}`}
          current={key === tab}
        >
          {label}
        </Link>
      ))}
    </nav>
  );
}
