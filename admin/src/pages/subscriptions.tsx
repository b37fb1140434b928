// All subscriptions, page by page.

import { useState } from "preact/hooks";
import { api, type SubscriptionEntry } from "../api";
import { relative, time } from "../format";
import { useNow, useQuery, useTitle } from "../hooks";
import { Button, Empty, QueryState } from "../parts/controls";
import { DeleteSubscription } from "../parts/delete";
import { Refresh, Trash } from "../parts/icons";
import { Paging } from "../parts/paging";
import { Link } from "../router";
import { readableName, subscriptionPage } from "../streams/names";

const pollMs = 10_000;
const pageEntries = 100;

export function Subscriptions({ query }: { query: URLSearchParams }) {
  useTitle("Subscriptions");
  const [doomed, setDoomed] = useState<SubscriptionEntry>();
  // The directory hears of a deletion a little later than the subscription.
  const [gone, setGone] = useState<string[]>([]);
  const after = query.get("after") ?? undefined;
  const listed = useQuery(
    `subscriptions/${after ?? ""}`,
    (signal) => api.subscriptions(after, pageEntries, signal),
    pollMs,
  );
  const { value, reload } = listed;
  const entries = (value?.entries ?? []).filter((entry) => !gone.includes(keyOf(entry)));
  return (
    <>
      <header class="page-head">
        <h1>Subscriptions</h1>
        <div class="actions">
          <Button onClick={reload}>
            <Refresh /> Refresh
          </Button>
        </div>
      </header>
      <QueryState query={listed} />
      {value !== undefined && entries.length === 0 && (
        <Empty title={after === undefined ? "No subscriptions yet" : "No more subscriptions"}>
          {after === undefined && (
            <p>Create one with a PUT request to /v1/stream/__ds/subscriptions/your-id.</p>
          )}
        </Empty>
      )}
      {entries.length > 0 && <SubscriptionTable entries={entries} onDelete={setDoomed} />}
      <Paging path="/admin/subscriptions" after={after} next={value?.next} />
      {doomed !== undefined && (
        <DeleteSubscription
          name={doomed.subscriptionId}
          onClose={() => setDoomed(undefined)}
          onDeleted={() => setGone([...gone, keyOf(doomed)])}
        />
      )}
    </>
  );
}

/** Tells a subscription from a later one of the same id. */
const keyOf = ({ subscriptionId, createdAt }: SubscriptionEntry) =>
  `${createdAt}/${subscriptionId}`;

interface SubscriptionTableProps {
  entries: SubscriptionEntry[];
  onDelete: (entry: SubscriptionEntry) => void;
}

function SubscriptionTable({ entries, onDelete }: SubscriptionTableProps) {
  const now = useNow(10_000);
  return (
    <div class="scrolls" tabIndex={0} role="region" aria-label="Subscriptions">
      <table class="table streams">
        <thead>
          <tr>
            <th scope="col">Id</th>
            <th scope="col">Follows</th>
            <th scope="col">Created</th>
            <th scope="col">
              <span class="hidden">Actions</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {entries.map((entry) => (
            <tr key={entry.subscriptionId}>
              <td class="name">
                <Link to={subscriptionPage(entry.subscriptionId)} title={entry.subscriptionId}>
                  {readableName(entry.subscriptionId)}
                </Link>
              </td>
              <td class="name">
                {entry.pattern === null ? (
                  <span class="quiet">named streams</span>
                ) : (
                  <code>{readableName(entry.pattern)}</code>
                )}
              </td>
              <td class="quiet" title={time(entry.createdAt)}>
                {relative(entry.createdAt, now)}
              </td>
              <td class="number">
                <Button
                  kind="plain"
                  label={`Delete ${readableName(entry.subscriptionId)}`}
                  onClick={() => onDelete(entry)}
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
