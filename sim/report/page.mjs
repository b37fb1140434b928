// The page: it runs the tape, compares the hash, and shows the event that the reader goes to.

import { beginAt, find, make, plain, rich, seconds } from "./dom.mjs";
import { difference } from "./difference.mjs";
import { EventList } from "./events.mjs";
import { Panic, Simulator } from "./simulator.mjs";
import { Timeline, kindOf } from "./timeline.mjs";

/**
 * @typedef {import("./simulator.mjs").Failure} RunFailure
 * @typedef {import("./simulator.mjs").Replay} RunReplay
 * @typedef {import("./simulator.mjs").Run} NativeRun
 */

/** The time from one event to the next while the page plays. */
const STEP_MS = 220;
/** How long after a step the address names the event. */
const LINK_MS = 200;

/** @type {NativeRun} */
const native = JSON.parse(find("run", HTMLScriptElement).textContent ?? "");
const button = (/** @type {string} */ id) => find(id, HTMLButtonElement);
const element = (/** @type {string} */ id) => find(id, HTMLElement);

/**
 * Runs the tape. A run that panics is shown up to the event in which it does.
 *
 * @param {Simulator} simulator
 * @returns {RunReplay}
 */
function wholeRun(simulator) {
  try {
    return simulator.replay();
  } catch (error) {
    if (!(error instanceof Panic)) throw error;
    const before = simulator.replay(native.until);
    const event = before.events + 1;
    const failure = {
      oracle: "panic",
      meaning: "Nothing panics.",
      expected: "no panic",
      actual: error.message,
      event,
    };
    const text = `panic: ${error.message}`;
    const { simulated_ms } = before;
    before.trace.push({ simulated_ms, event, lane: "!!", text, mark: "failure" });
    return { ...before, events: event, failure };
  }
}

/**
 * Shows whether this run is the native one.
 *
 * @param {RunReplay} replay
 */
function compare(replay) {
  const isSame =
    replay.hash === native.hash &&
    replay.events === native.events &&
    JSON.stringify(replay.failure) === JSON.stringify(native.failure);
  const covers = native.until < native.events ? ` up to event ${native.until}` : "";
  const word = isSame
    ? make("span", "is-same", `✓ the same run as natively${covers}`)
    : make("span", "is-other", "✗ not the native run");
  const hash = (/** @type {string} */ id, /** @type {string} */ value) => {
    const code = make("code", "", value);
    code.id = id;
    return code;
  };
  element("same").replaceChildren(
    word,
    make("br", ""),
    "hash here ", hash("hash-here", replay.hash), make("br", ""),
    "natively ", hash("hash-native", native.hash),
  );
  return isSame;
}

/** @param {RunReplay} replay */
function introduce(replay) {
  const { failure } = replay;
  document.title = `Simulation of ${native.name}`;
  element("name").textContent = `Simulation of ${native.name}`;
  const verdict = element("verdict");
  verdict.textContent = failure ? "an oracle fails" : "every oracle holds";
  verdict.classList.add(failure ? "fails" : "holds");
  const bytes = atob(native.tape).length;
  element("facts").textContent = [
    `${replay.events} events`,
    `${replay.operations} operations`,
    `${seconds(replay.simulated_ms)} simulated seconds`,
    `${replay.draws} decisions in ${bytes} bytes of tape`,
  ].join(" · ");
  element("settings").textContent = replay.settings;
  if (!failure) return;
  element("failure").hidden = false;
  element("oracle").textContent = failure.oracle;
  element("meaning").textContent = failure.meaning;
  element("expected").textContent = failure.expected;
  element("actual").textContent = failure.actual;
  button("to-failure").textContent = `go to event ${failure.event}`;
}

class Page {
  #event = 0;
  /** @type {string | undefined} */
  #call;
  /** @type {number | undefined} */
  #playing;
  /** @type {number | undefined} */
  #linking;

  /**
   * @param {Simulator} simulator
   * @param {RunReplay} replay
   */
  constructor(simulator, replay) {
    this.simulator = simulator;
    this.replay = replay;
    const go = (/** @type {number} */ event) => this.go(event);
    this.timeline = new Timeline(
      find("timeline", HTMLCanvasElement),
      find("overview", HTMLCanvasElement),
      replay.trace,
      go,
      (event, x, y) => this.#hover(event, x, y),
    );
    this.list = new EventList(element("list"), replay.trace, go);
    this.events = this.timeline.events;
    find("slider", HTMLInputElement).max = String(Math.max(0, this.events.length - 1));
    this.#filter("");
    this.#listen();
  }

  /**
   * Goes to an event, or to the last one before it that left a line.
   *
   * @param {number} event
   */
  go(event) {
    const first = this.events[0] ?? 0;
    this.#event = this.events.findLast((each) => each <= event) ?? first;
    this.#show();
  }

  /** @param {number} by */
  step(by) {
    const next = this.#place() + by;
    const event = this.events[Math.min(this.events.length - 1, Math.max(0, next))];
    if (event !== undefined) this.go(event);
  }

  /**
   * Goes to the next event of the lane in which this one happened.
   *
   * @param {number} by
   */
  stepInLane(by) {
    const { trace } = this.replay;
    const lane = trace.find((line) => line.event === this.#event)?.lane;
    const others = trace.filter((line) => line.lane === lane);
    const next =
      by > 0
        ? others.find((line) => line.event > this.#event)
        : others.findLast((line) => line.event < this.#event);
    if (next) this.go(next.event);
  }

  play() {
    if (this.#playing !== undefined) {
      clearInterval(this.#playing);
      this.#playing = undefined;
    } else {
      if (this.#place() === this.events.length - 1) this.step(-this.events.length);
      this.#playing = setInterval(() => {
        this.step(1);
        if (this.#place() === this.events.length - 1) this.play();
      }, STEP_MS);
    }
    const plays = this.#playing !== undefined;
    button("play").textContent = plays ? "⏸" : "▶";
    button("play").setAttribute("aria-label", plays ? "Pause" : "Play");
  }

  #place() {
    return Math.max(0, this.events.indexOf(this.#event));
  }

  #show() {
    const { trace } = this.replay;
    const lines = trace.filter((line) => line.event === this.#event);
    const time = seconds(lines[0]?.simulated_ms ?? 0);
    const slider = find("slider", HTMLInputElement);
    slider.value = String(this.#place());
    slider.setAttribute("aria-valuetext", `event ${this.#event}, ${time} seconds`);
    element("at").textContent = `event ${this.#event} of ${this.replay.events} · ${time} s`;
    this.timeline.select(this.#event, this.#call);
    this.list.select(this.#event, this.#call);
    const shown = lines.map((line) =>
      make(
        "li",
        "",
        make("span", `lane ${kindOf(line.lane)}`, line.lane === "!!" ? "oracle" : line.lane),
        make("span", "text", ...rich(line.text, this.#call)),
      ),
    );
    element("lines").replaceChildren(...shown);
    const subject = native.name.replace(/^seed /, "");
    element("command").textContent =
      `cargo sim replay ${subject}${native.flag} --trace --state --until ${this.#event}`;
    clearTimeout(this.#linking);
    // Browsers limit how often a page may change its address.
    this.#linking = setTimeout(
      () => history.replaceState(null, "", `#event=${this.#event}`),
      LINK_MS,
    );
    this.#showState();
  }

  #showState() {
    const before = this.events[this.#place() - 1];
    const since = before === undefined ? "" : `, compared with event ${before}`;
    element("detail-title").textContent = `State after event ${this.#event}${since}`;
    const onlyChanges = find("only-changes", HTMLInputElement).checked;
    try {
      this.#showSections(this.simulator.state(this.#event).state, before, onlyChanges);
    } catch (error) {
      if (!(error instanceof Panic)) throw error;
      element("detail-title").textContent = `State before event ${this.#event}, which panics`;
      this.#showSections(this.simulator.state(native.until).state, native.until, false);
    }
  }

  /**
   * Shows a state, and what differs from the state after an earlier event.
   *
   * @param {import("./simulator.mjs").Section[]} now
   * @param {number | undefined} before
   * @param {boolean} onlyChanges
   */
  #showSections(now, before, onlyChanges) {
    const then = before === undefined ? now : this.simulator.state(before).state;
    const old = new Map(then.map((section) => [section.title, section.text]));
    const sections = now.map((section) =>
      this.#section(section.title, section.lane, old.get(section.title) ?? "", section.text),
    );
    const changed = sections.filter(({ count }) => count > 0);
    const unchanged = onlyChanges ? [] : sections.filter(({ count }) => count === 0);
    const shown = [...changed, ...unchanged];
    const none = make("p", "muted section", "Nothing of the state changed in this event.");
    const nodes = shown.length > 0 ? shown.map(({ node }) => node) : [none];
    element("state").replaceChildren(...nodes);
  }

  /**
   * @param {string} title
   * @param {string} lane
   * @param {string} before
   * @param {string} after
   */
  #section(title, lane, before, after) {
    const onlyChanges = find("only-changes", HTMLInputElement).checked;
    const changes = difference(before, after);
    const count = changes.filter((change) => change.kind !== "same").length;
    const lines = changes.map((change) => {
      if (change.kind === "changed") {
        const name = make("span", "name", `${change.name}: `);
        const old = make("del", "", ...rich(change.before, this.#call));
        const fresh = make("ins", "", ...rich(change.after, this.#call));
        return make("span", "line changed", name, old, fresh);
      }
      const kind = change.kind === "same" ? "" : change.kind;
      const colon = change.text.indexOf(": ");
      const name = make("span", "name", change.text.slice(0, colon + 1));
      const value = change.text.slice(colon + 1);
      return make("span", `line ${kind}`, name, ...rich(value, this.#call));
    });
    const shown = onlyChanges ? lines.filter((_, at) => changes[at]?.kind !== "same") : lines;
    const word = count === 0 ? "unchanged" : count === 1 ? "1 change" : `${count} changes`;
    const node = make(
      "details",
      "section",
      make(
        "summary",
        "",
        make("span", kindOf(lane), title),
        make("span", count > 0 ? "count some" : "count", word),
      ),
      make("pre", "", ...shown),
    );
    node.open = !closed.has(title);
    node.addEventListener("toggle", () => {
      if (node.open) closed.delete(title);
      else closed.add(title);
    });
    return { node, count };
  }

  /**
   * @param {number | undefined} event
   * @param {number} x
   * @param {number} y
   */
  #hover(event, x, y) {
    const tip = element("tip");
    tip.hidden = event === undefined;
    if (event === undefined) return;
    const lines = this.replay.trace.filter((line) => line.event === event);
    const head = `event ${event} · ${seconds(lines[0]?.simulated_ms ?? 0)} s`;
    const rows = lines.slice(0, 8).map((line) => make("div", "", `${line.lane}  ${plain(line.text)}`));
    tip.replaceChildren(make("div", "", make("strong", "", head)), ...rows);
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${y + 18 + height > innerHeight ? y - height - 10 : y + 18}px`;
  }

  /** @param {string} text */
  #filter(text) {
    const count = this.list.filter(text);
    element("shown").textContent = `${count} of ${this.replay.trace.length} lines`;
  }

  /** @param {string | undefined} call */
  #choose(call) {
    this.#call = this.#call === call ? undefined : call;
    this.#show();
  }

  #listen() {
    const filter = find("filter", HTMLInputElement);
    const slider = find("slider", HTMLInputElement);
    button("first").addEventListener("click", () => this.step(-Infinity));
    button("back").addEventListener("click", () => this.step(-1));
    button("play").addEventListener("click", () => this.play());
    button("forward").addEventListener("click", () => this.step(1));
    button("last").addEventListener("click", () => this.step(Infinity));
    button("zoom-in").addEventListener("click", () => this.timeline.zoom(1.5));
    button("zoom-out").addEventListener("click", () => this.timeline.zoom(1 / 1.5));
    button("to-failure").addEventListener("click", () => this.#toFailure());
    // Not every browser lets a file use it.
    button("copy").hidden = !navigator.clipboard;
    button("copy").addEventListener("click", () => {
      void navigator.clipboard.writeText(element("command").textContent ?? "").then(() => {
        button("copy").textContent = "copied";
        setTimeout(() => (button("copy").textContent = "copy"), 1500);
      });
    });
    slider.addEventListener("input", () => {
      const event = this.events[Number(slider.value)];
      if (event !== undefined) this.go(event);
    });
    filter.addEventListener("input", () => this.#filter(filter.value));
    find("only-changes", HTMLInputElement).addEventListener("change", () => this.#showState());
    document.addEventListener("click", (event) => {
      const call = event.target instanceof HTMLElement ? event.target.dataset.call : undefined;
      if (call) this.#choose(call);
    });
    addEventListener("hashchange", () => this.go(eventOfLink() ?? this.#event));
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  #toFailure() {
    const { failure } = this.replay;
    if (failure) this.go(failure.event);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target } = event;
    if (target instanceof HTMLInputElement && target.type === "search") {
      if (event.key === "Escape") target.blur();
      return;
    }
    // Space presses what has the focus.
    const presses = target instanceof HTMLButtonElement || target instanceof HTMLInputElement;
    const isSummary = target instanceof HTMLElement && target.tagName === "SUMMARY";
    if (event.key === " " && (presses || isSummary)) return;
    const sideways = event.shiftKey
      ? (/** @type {number} */ by) => this.stepInLane(by)
      : (/** @type {number} */ by) => this.step(by);
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowRight: () => sideways(1),
      ArrowLeft: () => sideways(-1),
      Home: () => this.step(-Infinity),
      End: () => this.step(Infinity),
      " ": () => this.play(),
      f: () => this.#toFailure(),
      "/": () => find("filter", HTMLInputElement).focus(),
      "+": () => this.timeline.zoom(1.5),
      "-": () => this.timeline.zoom(1 / 1.5),
      Escape: () => this.#choose(undefined),
    };
    const act = Object.hasOwn(keys, event.key) ? keys[event.key] : undefined;
    if (!act) return;
    event.preventDefault();
    act();
  }
}

/**
 * Sections that the reader has closed.
 *
 * @type {Set<string>}
 */
const closed = new Set();

/** Returns the event that the link names. */
function eventOfLink() {
  const match = /^#event=(\d+)$/.exec(location.hash);
  return match ? Number(match[1]) : undefined;
}

try {
  const packed = find("simulator", HTMLScriptElement).textContent ?? "";
  const simulator = await Simulator.load(packed, native);
  const replay = wholeRun(simulator);
  beginAt(replay.beginning_ms);
  introduce(replay);
  const isSame = compare(replay);
  const page = new Page(simulator, replay);
  page.go(eventOfLink() ?? replay.failure?.event ?? replay.trace[0]?.event ?? 0);
  document.body.dataset.run = isSame ? "same" : "other";
} catch (error) {
  const verdict = element("verdict");
  verdict.textContent = `this page cannot run: ${error instanceof Error ? error.message : error}`;
  verdict.classList.add("fails");
  document.body.dataset.run = "broken";
  throw error;
}
