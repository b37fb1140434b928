// The content of a stream as a list that follows it, with the selected message beside it.

import type { TargetedSubmitEvent } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { StreamDetail } from "../api";
import { bytes, count } from "../format";
import { messageOf, onTokenChange } from "../http";
import { useShortcut, useSubscription } from "../hooks";
import { Badge, Button, CommandDialog, Empty, FailureNotice, Problem } from "../parts/controls";
import { openCreateDialog } from "../parts/create";
import { Close, Down, Fork, Pause, Play, Terminal, ToStart } from "../parts/icons";
import { SendBox } from "../parts/send-box";
import { Tree } from "../parts/tree";
import { VirtualList } from "../parts/virtual-list";
import { readFrom } from "../streams/curl";
import { type Json, parseJson } from "../streams/json";
import { type Form, formOf, hexOf, offsetOf, type Row } from "../streams/log";
import { isSession, isWrittenByServer } from "../streams/names";
import { readOffset, shortOffset } from "../streams/offsets";
import { nearTail, placeBefore, Reading } from "../streams/reading";

/** How much of a message its row shows. */
const previewCharacters = 400;
/** How much of a message is shown beside the list at first. */
const textShown = 100_000;

interface MessagesProps {
  detail: StreamDetail;
  reload: () => void;
}

export function Messages({ detail, reload }: MessagesProps) {
  const { streamId: name, contentType } = detail;
  const ownForm = formOf(contentType);
  const [form, setForm] = useState<Form>(ownForm);
  const [reading, setReading] = useState<Reading>();
  const [sticks, setSticks] = useState(true);
  const [problem, setProblem] = useState("");
  const latest = useRef(detail);
  latest.current = detail;

  const look = (from: string, form: Form, sticks: boolean) => {
    const isAtTail = from === "now" || from === latest.current.tailOffset;
    const next = new Reading(name, from, form, isAtTail);
    next.start();
    setReading(next);
    setSticks(sticks);
    setProblem("");
  };
  const toTail = (form: Form) => {
    nearTail(latest.current, new AbortController().signal).then(
      (from) => look(from, form, true),
      (error) => setProblem(messageOf(error)),
    );
  };
  useEffect(() => toTail(ownForm), []);
  useEffect(() => onTokenChange(() => toTail(form)), [form]);
  useEffect(() => () => reading?.pause(), [reading]);

  return (
    <section class="messages" aria-label="Messages">
      <Toolbar
        reading={reading}
        form={form}
        setForm={(form) => {
          setForm(form);
          if (reading !== undefined) look(reading.from, form, sticks);
        }}
        canChangeForm={ownForm !== "json"}
        toStart={() => look("-1", form, false)}
        toTail={() => toTail(form)}
        toEarlier={async () => {
          if (reading === undefined) return;
          try {
            const { signal } = new AbortController();
            const from =
              reading.from === "-1" ? "-1" : await placeBefore(detail, reading.from, signal);
            look(from, form, false);
          } catch (error) {
            setProblem(messageOf(error));
          }
        }}
        seek={(offset) => look(offset, form, offset === "now")}
        complain={setProblem}
        setSticks={setSticks}
      />
      <Problem text={problem} />
      {reading !== undefined && (
        <List
          key={reading.id}
          reading={reading}
          detail={detail}
          sticks={sticks}
          setSticks={setSticks}
          toTail={() => toTail(form)}
        />
      )}
      {isWrittenByServer(name) ? (
        <p class="hint">
          {isSession(name) ? "The stream of a session" : "The registry"} is written by the server
          alone.
        </p>
      ) : detail.closed ? (
        <p class="hint">The stream is closed. It takes no more appends.</p>
      ) : (
        <SendBox name={name} contentType={contentType} form={ownForm} onSent={reload} />
      )}
    </section>
  );
}

interface ToolbarProps {
  reading: Reading | undefined;
  form: Form;
  setForm: (form: Form) => void;
  canChangeForm: boolean;
  toStart: () => void;
  toTail: () => void;
  toEarlier: () => void;
  seek: (offset: string) => void;
  complain: (problem: string) => void;
  setSticks: (sticks: boolean) => void;
}

const nothing = () => () => {};

function Toolbar(props: ToolbarProps) {
  const { reading, form, setForm, canChangeForm, toStart, toTail, toEarlier } = props;
  useSubscription(reading?.subscribe ?? nothing);
  const [typed, setTyped] = useState("");
  const isPaused = reading?.isPaused ?? false;
  const toggle = () => {
    if (reading === undefined) return;
    if (isPaused) {
      reading.start();
      if (reading.isAtTail) props.setSticks(true);
    } else {
      reading.pause();
      props.setSticks(false);
    }
  };
  useShortcut("f", toggle);
  const seek = (event: TargetedSubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    const offset = readOffset(typed);
    if (offset === undefined) {
      props.complain("An offset has the form segment_position, such as 0_12. Also: -1, now.");
    } else {
      props.seek(offset);
    }
  };
  return (
    <div class="toolbar">
      <Button onClick={toggle} aria-pressed={!isPaused} disabled={reading?.end !== "open"}>
        {isPaused ? <Play /> : <Pause />} {isPaused ? "Follow" : "Pause"}
      </Button>
      <ReadingState reading={reading} />
      <span class="space" />
      <Button title="Go to the beginning" onClick={toStart}>
        <ToStart /> Start
      </Button>
      <Button title="Begin further back" onClick={toEarlier}>
        Earlier
      </Button>
      <Button title="Go to the end and follow" onClick={toTail}>
        <Down /> Tail
      </Button>
      <form class="seek" onSubmit={seek}>
        <input
          aria-label="Offset to go to"
          placeholder="Offset, such as 0_12"
          autocomplete="off"
          spellcheck={false}
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
        <Button type="submit">Go</Button>
      </form>
      {canChangeForm && (
        <div class="segmented" role="group" aria-label="Show as">
          {(["text", "binary"] as const).map((each) => (
            <button
              key={each}
              type="button"
              aria-pressed={each === form}
              onClick={() => setForm(each)}
            >
              {each === "text" ? "Text" : "Hex"}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}

function ReadingState({ reading }: { reading: Reading | undefined }) {
  if (reading === undefined) return null;
  if (reading.end === "closed") return <Badge tone="quiet">end of a closed stream</Badge>;
  if (reading.end === "failed") return <Badge tone="bad">stopped</Badge>;
  if (reading.isPaused) return <Badge tone="warn">paused</Badge>;
  if (reading.connection === "waiting") return <Badge tone="warn">reconnecting</Badge>;
  if (reading.isAtTail) return <Badge tone="good">live</Badge>;
  return <Badge tone="accent">catching up</Badge>;
}

interface ListProps {
  reading: Reading;
  detail: StreamDetail;
  sticks: boolean;
  setSticks: (sticks: boolean) => void;
  toTail: () => void;
}

function List({ reading, detail, sticks, setSticks, toTail }: ListProps) {
  useSubscription(reading.subscribe);
  const { log } = reading;
  // Counted with the forgotten rows, so that it stays the same row.
  const [selected, setSelected] = useState<number>();
  const [seen, setSeen] = useState(0);
  const index = selected === undefined ? undefined : selected - log.forgotten;
  const row = index === undefined ? undefined : log.rows[index];
  const isFollowing = sticks && !reading.isPaused;
  const news = isFollowing ? 0 : Math.max(0, log.count - seen);
  useEffect(() => {
    if (isFollowing) setSeen(log.count);
  }, [isFollowing, log.count]);
  if (reading.end === "failed" && reading.failure !== undefined) {
    return <FailureNotice failure={reading.failure} retry={toTail} />;
  }
  const isEmpty = log.count === 0;
  const noun = log.form === "json" ? "messages" : log.form === "text" ? "lines" : "rows";
  return (
    <>
      {reading.connection === "waiting" && reading.failure !== undefined && (
        <p class="problem" role="status">
          {reading.failure.message} The page tries again.
        </p>
      )}
      <div class={row === undefined ? "split" : "split with-detail"}>
        <div class="list-side">
          {isEmpty ? (
            <Empty title={reading.isAtTail ? "Nothing here yet" : "Loading…"}>
              {reading.isAtTail && <p>What is appended appears here at once.</p>}
            </Empty>
          ) : (
            <VirtualList
              label={`Content of the stream, as ${noun}`}
              count={log.rows.length}
              removed={log.forgotten}
              row={(at) => <RowView row={log.rows[at]} number={log.forgotten + at} />}
              rowKey={(at) => log.forgotten + at}
              selected={index}
              select={(at) => {
                setSelected(log.forgotten + at);
              }}
              sticks={isFollowing}
              onEnd={(isAtEnd) => setSticks(isAtEnd && reading.isAtTail)}
              onShown={(last) => reading.showing(log.forgotten + last)}
            />
          )}
          {!isFollowing && reading.isAtTail && news > 0 && !isEmpty && (
            <button
              type="button"
              class="news"
              onClick={() => {
                reading.start();
                setSticks(true);
              }}
            >
              {count(news)} below
            </button>
          )}
          <p class="hint status-line">
            {count(log.rows.length)} {noun}
            {log.forgotten > 0 && `, ${count(log.forgotten)} older ones left out`}
            {!reading.isAtTail && !isEmpty && reading.end === "open" && (
              <>
                {", more follow · "}
                <button type="button" class="link" onClick={toTail}>
                  to the tail
                </button>
              </>
            )}
          </p>
        </div>
        {row !== undefined && (
          <Selected
            key={selected}
            row={row}
            form={log.form}
            detail={detail}
            onClose={() => setSelected(undefined)}
          />
        )}
      </div>
    </>
  );
}

function RowView({ row, number }: { row: Row | undefined; number: number }) {
  if (row === undefined) return null;
  if (row.bytes !== undefined) {
    const [hex, characters] = hexOf(row.bytes);
    return (
      <>
        <span class="offset">{(number * 16).toString(16).padStart(8, "0")}</span>
        <span class="hex">{hex}</span>
        <span class="characters">{characters}</span>
      </>
    );
  }
  const offset = offsetOf(row);
  return (
    <>
      <span class="offset">{offset === undefined ? number : shortOffset(offset)}</span>
      <span class="preview">{row.text.slice(0, previewCharacters).replace(/\s+/g, " ")}</span>
      {row.text.length >= 1000 && <span class="size">{bytes(row.text.length)}</span>}
    </>
  );
}

interface SelectedProps {
  row: Row;
  form: Form;
  detail: StreamDetail;
  onClose: () => void;
}

function Selected({ row, form, detail, onClose }: SelectedProps) {
  const [isRaw, setRaw] = useState(false);
  const [isCopying, setCopying] = useState(false);
  const offset = offsetOf(row);
  const json = useMemo<Json | undefined>(() => {
    try {
      return form === "binary" ? undefined : parseJson(row.text);
    } catch {
      return undefined;
    }
  }, [row]);
  return (
    <section class="detail" aria-label="Selected message">
      <header>
        <code title={offset}>{offset === undefined ? "" : shortOffset(offset)}</code>
        <span class="space" />
        {json !== undefined && (
          <div class="segmented" role="group" aria-label="Message as">
            <button type="button" aria-pressed={!isRaw} onClick={() => setRaw(false)}>
              Tree
            </button>
            <button type="button" aria-pressed={isRaw} onClick={() => setRaw(true)}>
              As sent
            </button>
          </div>
        )}
        {offset !== undefined && (
          <>
            <Button kind="plain" label="Copy as curl from here" onClick={() => setCopying(true)}>
              <Terminal />
            </Button>
            <Button
              kind="plain"
              label="Fork before this message"
              onClick={() =>
                openCreateDialog({
                  source: { name: detail.streamId, contentType: detail.contentType, offset },
                })
              }
            >
              <Fork />
            </Button>
          </>
        )}
        <Button kind="plain" label="Close message" onClick={onClose}>
          <Close />
        </Button>
      </header>
      <div class="detail-body" tabIndex={0} role="region" aria-label="Content">
        {json !== undefined && !isRaw ? <Tree json={json} /> : <Raw row={row} />}
      </div>
      {isCopying && offset !== undefined && (
        <CommandDialog
          commands={[{ label: "Read from here", text: readFrom(detail.streamId, offset) }]}
          onClose={() => setCopying(false)}
        />
      )}
    </section>
  );
}

function Raw({ row }: { row: Row }) {
  const [isWhole, setWhole] = useState(false);
  const text = row.bytes === undefined ? row.text : hexOf(row.bytes).join("  ");
  const rest = text.length - textShown;
  return (
    <>
      <pre>{isWhole ? text : text.slice(0, textShown)}</pre>
      {rest > 0 && !isWhole && (
        <button type="button" class="link" onClick={() => setWhole(true)}>
          {count(rest)} more characters
        </button>
      )}
    </>
  );
}
