// The frame around all pages: navigation, the list of streams, and the dialogs.

import { useEffect, useRef, useState } from "preact/hooks";
import { token } from "./http";
import { useSubscription } from "./hooks";
import { Overview } from "./pages/overview";
import { SessionPage } from "./pages/session";
import { Sessions } from "./pages/sessions";
import { StreamPage } from "./pages/stream";
import { Streams } from "./pages/streams";
import { SubscriptionPage } from "./pages/subscription";
import { Subscriptions } from "./pages/subscriptions";
import { askForToken } from "./parts/ask-for-token";
import { Button, Empty } from "./parts/controls";
import { CreateDialog, openCreateDialog } from "./parts/create";
import {
  Close,
  Key,
  Menu,
  Overview as OverviewIcon,
  Plus,
  Sessions as SessionsIcon,
  Streams as StreamsIcon,
  Subscriptions as SubscriptionsIcon,
} from "./parts/icons";
import { Toasts } from "./parts/toasts";
import { TokenDialog } from "./parts/token";
import { PresenceSwitch, Viewers } from "./parts/viewers";
import { Link, type Place, placeOf, useLocation } from "./router";
import { streamList } from "./streams/list";
import { readableName, streamPage } from "./streams/names";
import { presence } from "./streams/presence";

/** The URL of a simulation's report. The build sets it, in development only. */
declare const SIMULATION_REPORT: string;

/** How many streams the navigation lists. The page about streams has all of them. */
const listedMax = 100;

export function App() {
  const { path, query } = useLocation();
  const place = placeOf(path);
  const main = useRef<HTMLElement>(null);
  const isFirst = useRef(true);
  useEffect(() => presence.at(path, place.page === "stream" ? place.name : undefined), [path]);
  useEffect(() => {
    // A new page is read out from its beginning, as after a load of the document.
    if (!isFirst.current) main.current?.focus();
    isFirst.current = false;
    scrollTo(0, 0);
  }, [path]);
  return (
    <div class="app">
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <Navigation place={place} />
      <main id="main" ref={main} tabIndex={-1}>
        <Content place={place} query={query} />
      </main>
      <CreateDialog />
      <TokenDialog />
      <Toasts />
    </div>
  );
}

function Content({ place, query }: { place: Place; query: URLSearchParams }) {
  switch (place.page) {
    case "overview":
      return <Overview />;
    case "streams":
      return <Streams />;
    case "stream":
      return <StreamPage key={place.name} name={place.name} query={query} />;
    case "subscriptions":
      return <Subscriptions query={query} />;
    case "subscription":
      return <SubscriptionPage key={place.id} id={place.id} query={query} />;
    case "sessions":
      return <Sessions />;
    case "session":
      return <SessionPage key={place.id} id={place.id} query={query} />;
    case "unknown":
      return (
        <>
          <h1>Not found</h1>
          <Empty title="There is no such page">
            <Link to="/admin">Overview</Link>
          </Empty>
        </>
      );
  }
}

function Navigation({ place }: { place: Place }) {
  const [isOpen, setOpen] = useState(false);
  const close = () => setOpen(false);
  const at = (page: Place["page"], member?: Place["page"]) =>
    place.page === page || (place.page === member && "section");
  return (
    <header class={isOpen ? "side open" : "side"}>
      <div class="brand">
        <Link to="/admin" onFollow={close}>
          <Mark /> Durable Streams
        </Link>
        <button
          type="button"
          class="button plain menu"
          aria-expanded={isOpen}
          aria-controls="navigation"
          aria-label={isOpen ? "Close menu" : "Open menu"}
          onClick={() => setOpen(!isOpen)}
        >
          {isOpen ? <Close /> : <Menu />}
        </button>
      </div>
      <div class="side-body" id="navigation">
        <nav aria-label="Pages">
          <Link to="/admin" current={at("overview")} onFollow={close}>
            <OverviewIcon /> Overview
          </Link>
          <Link to="/admin/streams" current={at("streams", "stream")} onFollow={close}>
            <StreamsIcon /> Streams
          </Link>
          <Link
            to="/admin/subscriptions"
            current={at("subscriptions", "subscription")}
            onFollow={close}
          >
            <SubscriptionsIcon /> Subscriptions
          </Link>
          <Link to="/admin/sessions" current={at("sessions", "session")} onFollow={close}>
            <SessionsIcon /> Sessions
          </Link>
        </nav>
        <StreamNavigation current={place.page === "stream" ? place.name : ""} onFollow={close} />
        <div class="side-foot">
          <PresenceSwitch />
          <TokenButton />
          {SIMULATION_REPORT !== "" && (
            <a class="simulation" href={SIMULATION_REPORT} target="_blank" rel="noreferrer">
              Simulation
            </a>
          )}
        </div>
      </div>
    </header>
  );
}

function Mark() {
  return (
    <svg viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false">
      <rect class="mark-back" width="20" height="20" rx="5" />
      <path class="mark-line" d="M4 7c2-2 4-2 6 0s4 2 6 0M4 13c2-2 4-2 6 0s4 2 6 0" />
    </svg>
  );
}

function StreamNavigation({ current, onFollow }: { current: string; onFollow: () => void }) {
  useSubscription(streamList.subscribe);
  const { entries, next, isLoaded, failure } = streamList;
  return (
    <nav class="stream-nav" aria-labelledby="stream-nav">
      <header>
        <h2 id="stream-nav">Live list</h2>
        <Button kind="plain" label="New stream" onClick={() => openCreateDialog()}>
          <Plus />
        </Button>
      </header>
      {failure !== undefined && <p class="hint">{failure.message}</p>}
      {isLoaded && failure === undefined && entries.length === 0 && next === undefined && (
        <p class="hint">{streamList.prefix === "" ? "No streams yet." : "No stream matches."}</p>
      )}
      <ul>
        {entries.slice(0, listedMax).map(({ streamId, closed }) => (
          <li key={streamId}>
            <Link
              to={streamPage(streamId)}
              current={streamId === current}
              title={readableName(streamId)}
              onFollow={onFollow}
            >
              <span class={`dot ${closed ? "quiet" : "good"}`} aria-hidden="true" />
              <span class="ellipsis">{readableName(streamId)}</span>
              <Viewers name={streamId} />
            </Link>
          </li>
        ))}
      </ul>
      {(entries.length > listedMax || next !== undefined) && (
        <Link class="hint" to="/admin/streams" onFollow={onFollow}>
          All streams
        </Link>
      )}
    </nav>
  );
}

function TokenButton() {
  const isSet = token("admin") !== "" || token("streams") !== "";
  return (
    <button type="button" class="button plain token" onClick={() => askForToken("admin")}>
      <Key /> {isSet ? "Token is set" : "Enter token"}
    </button>
  );
}
