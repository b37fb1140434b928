// All sessions by their ids: a table that grows by pages.

import { useState } from "preact/hooks";
import { api, type Page, type SessionEntry } from "../api";
import { count, duration, relative, time } from "../format";
import { useNow, useQuery, useTitle } from "../hooks";
import { Button, Empty, QueryState } from "../parts/controls";
import { DeleteSession } from "../parts/delete";
import { Refresh, Trash } from "../parts/icons";
import { SessionEnd } from "../parts/session-end";
import { Link } from "../router";
import { sessionPage } from "../streams/names";

const pollMs = 30_000;
const pageEntries = 50;

/** Loads this many pages anew, because sessions come and go anywhere in the order of ids. */
async function firstPages(pages: number, signal: AbortSignal): Promise<Page<SessionEntry>> {
  const entries: SessionEntry[] = [];
  let next: string | undefined;
  for (let page = 0; page < pages; page += 1) {
    const loaded = await api.sessions(next, pageEntries, signal);
    entries.push(...loaded.entries);
    next = loaded.next;
    if (next === undefined) break;
  }
  return { entries, next };
}

export function Sessions() {
  useTitle("Sessions");
  const [pages, setPages] = useState(1);
  const [round, setRound] = useState(0);
  const [doomed, setDoomed] = useState<string>();
  // The index hears of a deletion a little later than the session.
  const [gone, setGone] = useState<string[]>([]);
  const listed = useQuery("sessions", (signal) => firstPages(pages, signal), pollMs);
  const { value, isLoading, reload } = listed;
  const entries = (value?.entries ?? []).filter(({ sessionId }) => !gone.includes(sessionId));
  const loadMore = () => {
    setPages(pages + 1);
    reload();
  };
  const refresh = () => {
    setRound(round + 1);
    reload();
  };
  return (
    <>
      <header class="page-head">
        <h1>Sessions</h1>
        <div class="actions">
          <Button onClick={refresh}>
            <Refresh /> Refresh
          </Button>
        </div>
      </header>
      <QueryState query={listed} />
      {value !== undefined && entries.length === 0 && value.next === undefined && (
        <Empty title="No sessions yet">
          <p>Create one with a POST request to /v1/sessions.</p>
        </Empty>
      )}
      {entries.length > 0 && <SessionTable entries={entries} round={round} onDelete={setDoomed} />}
      {value?.next !== undefined && (
        <p class="more">
          <Button disabled={isLoading} onClick={loadMore}>
            Show more
          </Button>
        </p>
      )}
      {doomed !== undefined && (
        <DeleteSession
          name={doomed}
          onClose={() => setDoomed(undefined)}
          onDeleted={() => setGone([...gone, doomed])}
        />
      )}
    </>
  );
}

interface SessionTableProps {
  entries: SessionEntry[];
  round: number;
  onDelete: (id: string) => void;
}

function SessionTable({ entries, round, onDelete }: SessionTableProps) {
  const now = useNow(10_000);
  return (
    <div class="scrolls" tabIndex={0} role="region" aria-label="Sessions">
      <table class="table streams">
        <thead>
          <tr>
            <th scope="col">Id</th>
            <th scope="col">Created</th>
            <th scope="col">Lives unused</th>
            <th scope="col">Ends</th>
            <th scope="col" class="number">
              Streams
            </th>
            <th scope="col">
              <span class="hidden">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {entries.map(({ sessionId, createdAt, ttlSeconds }) => (
            <tr key={sessionId}>
              <td class="name">
                <Link to={sessionPage(sessionId)}>
                  <code>{sessionId}</code>
                </Link>
              </td>
              <td class="quiet" title={time(createdAt)}>
                {relative(createdAt, now)}
              </td>
              <td class="quiet">{duration(ttlSeconds * 1000)}</td>
              <Use id={sessionId} round={round} />
              <td class="number">
                <Button
                  kind="plain"
                  label={`Delete ${sessionId}`}
                  onClick={() => onDelete(sessionId)}
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

/** The cells that the list does not know: only the session knows when it was last used. */
function Use({ id, round }: { id: string; round: number }) {
  const { value, failure } = useQuery(`session-use/${id}/${round}`, (signal) =>
    api.session(id, undefined, 1, signal),
  );
  if (value === undefined) {
    const isGone = failure?.status === 404 || failure?.status === 410;
    const text = failure === undefined ? "…" : isGone ? "ended" : "unknown";
    return (
      <>
        <td class="quiet">{text}</td>
        <td class="number quiet">–</td>
      </>
    );
  }
  return (
    <>
      <td>
        <SessionEnd at={value.expiresAt} />
      </td>
      <td class="number">{count(value.subscriptionCount)}</td>
    </>
  );
}
