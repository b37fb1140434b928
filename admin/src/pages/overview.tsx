// The overview: health, totals and the busiest streams.

import { useState } from "preact/hooks";
import { api, type Health, type HotStream } from "../api";
import { bytes, count, duration, rate, shortCount, time } from "../format";
import { useNow, useQuery, useTitle } from "../hooks";
import { Badge, Button, Empty, FailureNotice } from "../parts/controls";
import { openCreateDialog } from "../parts/create";
import { Plus, Refresh } from "../parts/icons";
import { Stat } from "../parts/stat";
import { Link } from "../router";
import { readableName, streamPage } from "../streams/names";

const pollMs = 5_000;
const hotStreams = 10;
const periods = [5, 15, 60];

export function Overview() {
  useTitle("Overview");
  const [minutes, setMinutes] = useState(5);
  const health = useQuery("health", api.health, pollMs);
  const system = useQuery("system", api.system, pollMs);
  const hot = useQuery(`hot/${minutes}`, (signal) => api.hot(minutes, hotStreams, signal), pollMs);
  const reload = () => {
    health.reload();
    system.reload();
    hot.reload();
  };
  // With one server, all three fail for the same reason. It is shown once.
  const failure = health.failure;
  const isUnknown = system.failure?.status === 503;
  const figure = (of: (value: NonNullable<typeof system.value>) => string) =>
    system.value === undefined ? "–" : of(system.value);
  return (
    <>
      <header class="page-head">
        <h1>Overview</h1>
        {health.value !== undefined && <Status health={health.value} />}
        <div class="actions">
          <Button onClick={reload}>
            <Refresh /> Refresh
          </Button>
          <Button kind="primary" onClick={() => openCreateDialog()}>
            <Plus /> New stream
          </Button>
        </div>
      </header>
      {failure !== undefined && <FailureNotice failure={failure} retry={reload} />}
      <dl class="stats">
        <Stat label="Messages, last 5 min">
          {figure(({ messagesLast5Min }) => shortCount(messagesLast5Min))}
        </Stat>
        <Stat label="Bytes, last 5 min">{figure(({ bytesLast5Min }) => bytes(bytesLast5Min))}</Stat>
        <Stat label="Messages per second">
          {figure(({ messagesPerSecond }) => rate(messagesPerSecond))}
        </Stat>
        <Stat label="Live readers">
          {figure(({ activeSubscribers }) => activeSubscribers === null ? "–" : shortCount(activeSubscribers))}
        </Stat>
      </dl>
      {isUnknown && <p class="hint">{system.failure?.message}</p>}
      {typeof system.value?.since === "number" && <Since since={system.value.since} />}
      <div class="columns">
        <section class="panel" aria-labelledby="hot">
          <header>
            <h2 id="hot">Busiest streams</h2>
            <div class="segmented" role="group" aria-label="Period">
              {periods.map((each) => (
                <button
                  key={each}
                  type="button"
                  aria-pressed={each === minutes}
                  onClick={() => setMinutes(each)}
                >
                  {each} min
                </button>
              ))}
            </div>
          </header>
          {hot.value !== undefined ? (
            <HotTable streams={hot.value} />
          ) : hot.failure === undefined ? (
            <p class="hint">Loading…</p>
          ) : (
            failure === undefined && <Empty title={hot.failure.message} />
          )}
        </section>
        <section class="panel" aria-labelledby="services">
          <header>
            <h2 id="services">Services</h2>
          </header>
          {health.value === undefined ? (
            <p class="hint">{health.failure === undefined ? "Loading…" : "Unknown"}</p>
          ) : (
            <Services health={health.value} />
          )}
        </section>
      </div>
    </>
  );
}

const tones = { healthy: "good", degraded: "warn", unhealthy: "bad" } as const;

function Status({ health: { status } }: { health: Health }) {
  const tone = status in tones ? tones[status as keyof typeof tones] : "quiet";
  return <Badge tone={tone}>{status}</Badge>;
}

function Since({ since }: { since: number }) {
  const now = useNow(10_000);
  return (
    <p class="hint">
      Counted since the server started, {duration(now - since)} ago:{" "}
      <span class="number">{time(since)}</span>
    </p>
  );
}

function HotTable({ streams }: { streams: HotStream[] }) {
  if (streams.length === 0) {
    return (
      <Empty title="No appends in this period">
        <p>Streams appear here as soon as something is appended to them.</p>
      </Empty>
    );
  }
  const most = Math.max(...streams.map(({ messageCount }) => messageCount), 1);
  return (
    <table class="table">
      <thead>
        <tr>
          <th scope="col">Stream</th>
          <th scope="col" class="number">
            Messages
          </th>
          <th scope="col" class="number">
            Size
          </th>
        </tr>
      </thead>
      <tbody>
        {streams.map(({ streamId, messageCount, byteCount }) => (
          <tr key={streamId}>
            <td class="name">
              <Link to={streamPage(streamId)} title={streamId}>
                {readableName(streamId)}
              </Link>
              <div class="share" style={{ width: `${(messageCount / most) * 100}%` }} />
            </td>
            <td class="number">{count(messageCount)}</td>
            <td class="number">{bytes(byteCount)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

const serviceNames: Record<string, string> = {
  storage: "Storage",
  cold: "Cold storage",
  registry: "Registry",
  d1: "Admin index (D1)",
  r2: "Cold storage (R2)",
};

function Services({ health }: { health: Health }) {
  const services = Object.entries(health.services);
  if (services.length === 0) return <Empty title="No service is configured" />;
  return (
    <ul class="services">
      {services.map(([name, { available, latencyMs, error }]) => (
        <li key={name}>
          <span class={`dot ${available ? "good" : "bad"}`} aria-hidden="true" />
          <span>{serviceNames[name] ?? name}</span>
          <span class="quiet">{available ? "available" : "not available"}</span>
          <span class="number">{latencyMs} ms</span>
          {error !== null && <p class="problem">{error}</p>}
        </li>
      ))}
    </ul>
  );
}
