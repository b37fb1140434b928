// All streams: a table that grows by pages, and follows the registry.

import { useRef, useState } from "preact/hooks";
import type { StreamEntry } from "../api";
import { duration, relative, time } from "../format";
import { useNow, useShortcut, useSubscription, useTitle } from "../hooks";
import { Badge, Button, Empty, FailureNotice } from "../parts/controls";
import { openCreateDialog } from "../parts/create";
import { DeleteStream } from "../parts/delete";
import { Plus, Search, Trash } from "../parts/icons";
import { go, Link } from "../router";
import { streamList } from "../streams/list";
import { canonicalName, readableName, streamPage } from "../streams/names";

const typingPauseMs = 250;

export function Streams() {
  useTitle("Streams");
  useSubscription(streamList.subscribe);
  const [doomed, setDoomed] = useState<string>();
  const { entries, next, failure, isLoaded, isLoadingMore, prefix } = streamList;
  return (
    <>
      <header class="page-head">
        <h1>Streams</h1>
        <Liveness />
        <div class="actions">
          <Button kind="primary" onClick={() => openCreateDialog()}>
            <Plus /> New stream
          </Button>
        </div>
      </header>
      <Filter />
      {failure !== undefined && (
        <FailureNotice failure={failure} retry={() => streamList.start()} />
      )}
      {isLoaded && entries.length === 0 && next === undefined && failure === undefined && (
        <Empty title={prefix === "" ? "No streams yet" : "No stream has this prefix"}>
          {prefix === "" && <p>Create one here, or with a PUT request to /v1/stream/your-name.</p>}
        </Empty>
      )}
      {!isLoaded && <p class="hint">Loading…</p>}
      {entries.length > 0 && <StreamTable entries={entries} onDelete={setDoomed} />}
      {next !== undefined && (
        <p class="more">
          <Button disabled={isLoadingMore} onClick={() => streamList.loadMore()}>
            Show more
          </Button>
        </p>
      )}
      {doomed !== undefined && <DeleteStream name={doomed} onClose={() => setDoomed(undefined)} />}
    </>
  );
}

function Liveness() {
  const isLive = streamList.connection === "live" || streamList.connection === "connecting";
  return isLive ? <Badge tone="good">live</Badge> : <Badge tone="quiet">every 30 s</Badge>;
}

/** Selects by the beginning of the name. Enter opens the stream of exactly this name. */
export function Filter() {
  const [typed, setTyped] = useState(readableName(streamList.prefix));
  const input = useRef<HTMLInputElement>(null);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  useShortcut("/", () => input.current?.focus());
  const change = (value: string) => {
    setTyped(value);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => streamList.setPrefix(canonicalName(value)), typingPauseMs);
  };
  return (
    <form
      class="filter"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        const name = canonicalName(typed);
        if (name !== "") go(streamPage(name));
      }}
    >
      <Search />
      <input
        ref={input}
        type="search"
        aria-label="Names that begin with"
        placeholder="Names that begin with…"
        autocomplete="off"
        spellcheck={false}
        value={typed}
        onInput={(event) => change(event.currentTarget.value)}
      />
      <span class="hint keys">
        <kbd>/</kbd> to filter, <kbd>Enter</kbd> opens the exact name
      </span>
    </form>
  );
}

interface StreamTableProps {
  entries: StreamEntry[];
  onDelete: (name: string) => void;
}

function StreamTable({ entries, onDelete }: StreamTableProps) {
  const now = useNow(10_000);
  return (
    <div class="scrolls" tabIndex={0} role="region" aria-label="Streams">
      <table class="table streams">
        <thead>
          <tr>
            <th scope="col">Name</th>
            <th scope="col">Content type</th>
            <th scope="col">State</th>
            <th scope="col">Created</th>
            <th scope="col">Ends</th>
            <th scope="col">
              <span class="hidden">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {entries.map((entry) => (
            <tr key={entry.streamId}>
              <td class="name">
                <Link to={streamPage(entry.streamId)} title={entry.streamId}>
                  {readableName(entry.streamId)}
                </Link>
                {entry.forkedFrom !== null && (
                  <span class="quiet"> fork of {readableName(entry.forkedFrom)}</span>
                )}
              </td>
              <td class="quiet type">{entry.contentType}</td>
              <td>
                {entry.closed ? (
                  <Badge tone="quiet">closed</Badge>
                ) : (
                  <Badge tone="good">open</Badge>
                )}
              </td>
              <td class="quiet" title={time(entry.createdAt)}>
                {relative(entry.createdAt, now)}
              </td>
              <td class="quiet">{ends(entry, now)}</td>
              <td class="number">
                <Button
                  kind="plain"
                  label={`Delete ${readableName(entry.streamId)}`}
                  onClick={() => onDelete(entry.streamId)}
                >
                  <Trash />
                </Button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function ends({ expiresAt, ttlSeconds }: StreamEntry, now: number) {
  if (expiresAt !== null) return relative(expiresAt, now);
  return ttlSeconds === null ? "never" : `after ${duration(ttlSeconds * 1000)} without use`;
}
