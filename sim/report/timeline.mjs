// The timeline: a lane for each client, object and other part of the world, and a column for each
// event. Columns are equally wide, because simulated time stands still and jumps.

import { seconds } from "./dom.mjs";

/**
 * @typedef {import("./simulator.mjs").Line} Line
 * @typedef {{ from: number, to: number, slot: number, lost: boolean, open: boolean,
 *   call: string }} Bar
 * @typedef {{ label: string, kind: string, bars: Bar[], marks: { column: number, line: Line }[],
 *   top: number, height: number, slots: number }} Row
 */

/** The kinds of lanes from the top to the bottom. */
const KINDS = [
  "client", "reader", "cache", "network", "object", "cold", "message", "fault", "world", "oracle",
];
const AXIS = 24;
/** The space before the first column and behind the last. */
const PADDING = 12;
const SLOT = 7;
/** More bars than this at one time share their places. */
const SLOTS_MAX = 14;
/** How many pixels a column has at least, unless the reader zooms out. */
const COLUMN_MIN = 5;
const COLUMN_MAX = 120;
/** A pause of this many simulated milliseconds is marked. */
const PAUSE_MS = 1000;
const TICK_PIXELS = 90;
const TICK_FONT = "11px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
const LABEL_FONT = "12px system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif";

/**
 * Returns the kind of a lane. In the world of forks the lanes of objects are named as streams are.
 *
 * @param {string} lane
 */
export function kindOf(lane) {
  if (lane === "!!") return "oracle";
  const word = lane.split(" ")[0] ?? lane;
  return KINDS.includes(word) ? word : "object";
}

/**
 * Returns the name of the row that shows a lane. Readers come and go, and share one.
 *
 * @param {string} lane
 */
function rowOf(lane) {
  const kind = kindOf(lane);
  if (kind === "reader") return "readers";
  if (lane === "client") return "clients";
  if (kind === "fault") return "faults";
  if (kind === "message") return "messages";
  return kind === "oracle" ? "oracles" : lane;
}

export class Timeline {
  /** @type {Row[]} */
  #rows = [];
  /** @type {number[]} the number of the event of each column */
  #events = [];
  /** @type {number[]} the time of each column */
  #times = [];
  #scale = COLUMN_MIN;
  #left = 0;
  #column = 0;
  /** @type {string | undefined} */
  #call;
  #drawn = false;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLCanvasElement} overview
   * @param {Line[]} lines
   * @param {(event: number) => void} pick
   * @param {(event: number | undefined, x: number, y: number) => void} hover
   */
  constructor(canvas, overview, lines, pick, hover) {
    this.canvas = canvas;
    this.overview = overview;
    this.pick = pick;
    this.hover = hover;
    this.#arrange(lines);
    this.#listen();
    this.#scale = Math.min(COLUMN_MAX, Math.max(this.#fit(), COLUMN_MIN));
    new ResizeObserver(() => this.#later()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#later());
  }

  /** Returns the numbers of the events that have a column. */
  get events() {
    return this.#events;
  }

  /**
   * Goes to an event, and chooses a call.
   *
   * @param {number} event
   * @param {string | undefined} call
   */
  select(event, call) {
    this.#column = Math.max(0, this.#events.indexOf(event));
    this.#call = call;
    const [visible, margin] = [this.#visible(), 4];
    if (this.#column < this.#left + margin || this.#column > this.#left + visible - margin)
      this.#left = this.#column - visible / 2;
    this.#later();
  }

  /**
   * Makes columns wider or narrower, and keeps the selected one in its place.
   *
   * @param {number} factor
   * @param {number} [column] the one to keep instead
   */
  zoom(factor, column = this.#column) {
    const before = this.#scale;
    const least = Math.min(this.#fit(), COLUMN_MIN);
    this.#scale = Math.min(COLUMN_MAX, Math.max(least, before * factor));
    this.#left = column - ((column - this.#left) * before) / this.#scale;
    this.#later();
  }

  /** @param {Line[]} lines */
  #arrange(lines) {
    /** @type {Map<string, Row>} */
    const rows = new Map();
    /** @type {Map<string, Map<string, Bar>>} */
    const open = new Map();
    for (const line of lines) {
      if (this.#events.at(-1) !== line.event) {
        this.#events.push(line.event);
        this.#times.push(line.simulated_ms);
      }
      const column = this.#events.length - 1;
      const label = rowOf(line.lane);
      let row = rows.get(label);
      if (!row) {
        row = { label, kind: kindOf(line.lane), bars: [], marks: [], top: 0, height: 0, slots: 0 };
        rows.set(label, row);
      }
      row.marks.push({ column, line });
      const under = open.get(line.lane) ?? new Map();
      open.set(line.lane, under);
      const span = line.span ?? "";
      if (line.mark === "begins") {
        const call = span.replace(" ", "");
        const bar = { from: column, to: Infinity, slot: 0, lost: false, open: true, call };
        under.set(span, bar);
        row.bars.push(bar);
      } else if (line.mark === "ends" || line.mark === "loses") {
        const bar = under.get(span);
        if (bar) Object.assign(bar, { to: column, open: false, lost: line.mark === "loses" });
        under.delete(span);
      } else if (line.mark === "breaks") {
        for (const bar of under.values())
          Object.assign(bar, { to: column, open: false, lost: true });
        under.clear();
      }
    }
    const order = (/** @type {Row} */ row) => KINDS.indexOf(row.kind);
    this.#rows = [...rows.values()].sort(
      (one, other) =>
        order(one) - order(other) ||
        one.label.localeCompare(other.label, "en", { numeric: true }),
    );
    let top = AXIS;
    for (const row of this.#rows) {
      const ends = /** @type {number[]} */ ([]);
      for (const bar of row.bars) {
        bar.to = Math.min(bar.to, this.#events.length - 1);
        const free = ends.findIndex((end) => end < bar.from);
        bar.slot = free < 0 ? ends.length : free;
        ends[bar.slot] = bar.to;
        bar.slot %= SLOTS_MAX;
      }
      row.slots = Math.min(ends.length, SLOTS_MAX);
      row.top = top;
      row.height = 18 + row.slots * SLOT;
      top += row.height;
    }
    this.canvas.style.height = `${top}px`;
  }

  #fit() {
    return (this.canvas.clientWidth - this.#margin() - PADDING) / Math.max(1, this.#events.length);
  }

  #margin() {
    return this.canvas.clientWidth < 600 ? 78 : 100;
  }

  #visible() {
    return (this.canvas.clientWidth - this.#margin()) / this.#scale;
  }

  #later() {
    if (this.#drawn) return;
    this.#drawn = true;
    requestAnimationFrame(() => {
      this.#drawn = false;
      this.#draw();
      this.#drawOverview();
    });
  }

  #clamp() {
    const most = Math.max(0, this.#events.length + PADDING / this.#scale - this.#visible());
    this.#left = Math.min(most, Math.max(0, this.#left));
  }

  /** @param {number} column */
  #x(column) {
    return this.#margin() + PADDING / 2 + (column - this.#left + 0.5) * this.#scale;
  }

  /** @param {number} x */
  #columnAt(x) {
    const column = Math.round((x - this.#margin() - PADDING / 2) / this.#scale - 0.5 + this.#left);
    return Math.min(this.#events.length - 1, Math.max(0, column));
  }

  #draw() {
    this.#clamp();
    const [pen, width, height] = prepared(this.canvas);
    const color = colors(this.canvas);
    const margin = this.#margin();
    const last = this.#events.length - 1;
    const from = Math.max(0, Math.floor(this.#left) - 1);
    const to = Math.min(last, Math.ceil(this.#left + this.#visible()) + 1);
    pen.fillStyle = color("surface");
    pen.fillRect(0, 0, width, height);
    this.#rows.forEach((row, at) => {
      if (at % 2) return;
      pen.fillStyle = color("stripe");
      pen.fillRect(0, row.top, width, row.height);
    });
    this.#drawAxis(pen, color, from, to, height);
    for (const row of this.#rows) this.#drawRow(pen, color, row, from, to);
    this.#drawCursor(pen, color, height);
    // Labels cover what has moved to the left of the timeline.
    this.#rows.forEach((row, at) => {
      pen.fillStyle = color(at % 2 ? "surface" : "stripe");
      pen.fillRect(0, row.top, margin, row.height);
      pen.fillStyle = color(row.kind === "oracle" ? "failure" : row.kind);
      pen.font = LABEL_FONT;
      pen.textBaseline = "middle";
      pen.fillText(row.label, 12, row.top + row.height / 2, margin - 16);
    });
    pen.fillStyle = color("raised");
    pen.fillRect(0, 0, margin, AXIS);
    pen.fillStyle = color("muted");
    pen.font = TICK_FONT;
    pen.fillText("seconds", 12, AXIS / 2);
    pen.fillStyle = color("rule");
    pen.fillRect(margin, 0, 1, height);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {(name: string) => string} color
   * @param {number} from
   * @param {number} to
   * @param {number} height
   */
  #drawAxis(pen, color, from, to, height) {
    pen.fillStyle = color("raised");
    pen.fillRect(0, 0, pen.canvas.width, AXIS);
    pen.font = TICK_FONT;
    pen.textBaseline = "middle";
    let free = -Infinity;
    let shown = -1;
    for (let column = from; column <= to; column += 1) {
      const time = this.#times[column] ?? 0;
      const pause = time - (this.#times[column - 1] ?? 0);
      const x = this.#x(column);
      if (pause >= PAUSE_MS) {
        pen.strokeStyle = color("rule");
        pen.setLineDash([2, 3]);
        pen.beginPath();
        pen.moveTo(x - this.#scale / 2, AXIS);
        pen.lineTo(x - this.#scale / 2, height);
        pen.stroke();
        pen.setLineDash([]);
      }
      if (time === shown || x < free) continue;
      shown = time;
      free = x + TICK_PIXELS;
      pen.fillStyle = color("rule");
      pen.fillRect(x, AXIS - 6, 1, 6);
      pen.fillStyle = color("muted");
      pen.fillText(seconds(time), x + 4, AXIS / 2);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {(name: string) => string} color
   * @param {Row} row
   * @param {number} from
   * @param {number} to
   */
  #drawRow(pen, color, row, from, to) {
    const tint = color(row.kind === "oracle" ? "failure" : row.kind);
    const middle = row.top + 9;
    for (const bar of row.bars) {
      if (bar.to < from || bar.from > to) continue;
      const [x, end] = [this.#x(bar.from), this.#x(bar.to)];
      const y = row.top + 15 + bar.slot * SLOT;
      const chosen = bar.call === this.#call;
      pen.globalAlpha = chosen ? 1 : bar.open ? 0.25 : 0.5;
      pen.fillStyle = chosen ? color("accent") : tint;
      pen.beginPath();
      pen.roundRect(x - 1.5, y, Math.max(3, end - x + 3), SLOT - 2, 2.5);
      pen.fill();
      pen.globalAlpha = 1;
      if (bar.lost) cross(pen, color("failure"), end, y + 2.5, 2.5);
    }
    for (const { column, line } of row.marks) {
      if (column < from || column > to) continue;
      const x = this.#x(column);
      if (line.mark === "breaks") {
        cross(pen, color("failure"), x, middle, 4.5);
      } else if (line.mark === "fault") {
        triangle(pen, color("fault"), x, middle, 4);
      } else if (line.mark === "failure") {
        pen.fillStyle = color("failure");
        pen.fillRect(x - 0.5, AXIS, 1.5, row.top + row.height - AXIS);
        cross(pen, color("failure"), x, middle, 5);
      } else {
        pen.fillStyle = tint;
        pen.fillRect(x - 1, middle - 3.5, 2, 7);
      }
    }
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {(name: string) => string} color
   * @param {number} height
   */
  #drawCursor(pen, color, height) {
    const x = this.#x(this.#column);
    pen.fillStyle = color("accent");
    pen.globalAlpha = 0.14;
    const wide = Math.min(16, Math.max(7, this.#scale));
    pen.fillRect(x - wide / 2, AXIS, wide, height - AXIS);
    pen.globalAlpha = 1;
    pen.fillRect(x - 0.5, AXIS - 4, 1.5, height);
    pen.beginPath();
    pen.moveTo(x - 6, AXIS - 9);
    pen.lineTo(x + 6, AXIS - 9);
    pen.lineTo(x + 0.25, AXIS);
    pen.fill();
  }

  #drawOverview() {
    const [pen, width, height] = prepared(this.overview);
    const color = colors(this.overview);
    const count = Math.max(1, this.#events.length);
    const margin = this.#margin() + 6;
    const place = (/** @type {number} */ column) =>
      margin + ((column + 0.5) / count) * (width - margin - 6);
    pen.fillStyle = color("raised");
    pen.fillRect(0, 0, width, height);
    pen.fillStyle = color("muted");
    pen.font = TICK_FONT;
    pen.textBaseline = "middle";
    pen.fillText("whole run", 12, height / 2);
    for (const row of this.#rows) {
      for (const { column, line } of row.marks) {
        const [name, top, tall] =
          line.mark === "failure" ? ["failure", 0, height]
          : line.mark === "breaks" ? ["failure", 4, 9]
          : line.mark === "fault" ? ["fault", height - 8, 5]
          : ["", 0, 0];
        if (!name) continue;
        pen.fillStyle = color(name);
        pen.fillRect(place(column) - 0.75, top, 1.5, tall);
      }
    }
    const [from, to] = [place(this.#left - 0.5), place(this.#left + this.#visible() - 0.5)];
    pen.strokeStyle = color("muted");
    pen.globalAlpha = 0.7;
    pen.strokeRect(from, 1.5, Math.min(to, width - 2) - from, height - 3);
    pen.globalAlpha = 1;
    pen.fillStyle = color("accent");
    pen.fillRect(place(this.#column) - 1, 0, 2, height);
  }

  #listen() {
    const { canvas, overview } = this;
    const pickAt = (/** @type {PointerEvent} */ event) => {
      const picked = this.#events[this.#columnAt(event.offsetX)];
      if (picked !== undefined) this.pick(picked);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pickAt(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons) pickAt(event);
      const isLabel = event.offsetX < this.#margin();
      const under = isLabel ? undefined : this.#events[this.#columnAt(event.offsetX)];
      this.hover(event.buttons ? undefined : under, event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerleave", () => this.hover(undefined, 0, 0));
    canvas.addEventListener(
      "wheel",
      (event) => {
        const sideways = event.shiftKey ? event.deltaY : event.deltaX;
        if (event.ctrlKey || event.metaKey) {
          this.zoom(Math.exp(-event.deltaY / 240), this.#columnAt(event.offsetX));
        } else if (sideways) {
          this.#left += sideways / this.#scale;
          this.#later();
        } else return;
        event.preventDefault();
      },
      { passive: false },
    );
    const moveTo = (/** @type {PointerEvent} */ event) => {
      const margin = this.#margin() + 6;
      const part = (event.offsetX - margin) / (overview.clientWidth - margin - 6);
      this.#left = part * this.#events.length - this.#visible() / 2;
      this.#later();
    };
    overview.addEventListener("pointerdown", (event) => {
      overview.setPointerCapture(event.pointerId);
      moveTo(event);
    });
    overview.addEventListener("pointermove", (event) => event.buttons && moveTo(event));
  }
}

/**
 * Gives a canvas the pixels of the screen.
 *
 * @param {HTMLCanvasElement} canvas
 * @returns {[CanvasRenderingContext2D, number, number]}
 */
function prepared(canvas) {
  const ratio = devicePixelRatio;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  if (!pen) throw new Error("this browser draws no canvas");
  pen.scale(ratio, ratio);
  return [pen, width, height];
}

/**
 * Returns the colors of the style sheet.
 *
 * @param {Element} element
 */
function colors(element) {
  const style = getComputedStyle(element);
  /** @type {Map<string, string>} */
  const known = new Map();
  return (/** @type {string} */ name) => {
    const color = known.get(name) ?? style.getPropertyValue(`--${name}`).trim();
    known.set(name, color);
    return color;
  };
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {string} color
 * @param {number} x
 * @param {number} y
 * @param {number} size
 */
function cross(pen, color, x, y, size) {
  pen.strokeStyle = color;
  pen.lineWidth = size > 3 ? 2 : 1.5;
  pen.beginPath();
  pen.moveTo(x - size, y - size);
  pen.lineTo(x + size, y + size);
  pen.moveTo(x + size, y - size);
  pen.lineTo(x - size, y + size);
  pen.stroke();
  pen.lineWidth = 1;
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {string} color
 * @param {number} x
 * @param {number} y
 * @param {number} size
 */
function triangle(pen, color, x, y, size) {
  pen.fillStyle = color;
  pen.beginPath();
  pen.moveTo(x, y - size);
  pen.lineTo(x + size, y + size);
  pen.lineTo(x - size, y + size);
  pen.fill();
}
