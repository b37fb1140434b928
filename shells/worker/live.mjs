// The reader's side of live reads: one client's SSE response or long-poll, kept going over lines to its stream.
//
// `Tail` is the twin of `machine/src/live_reader.rs`, where its words are explained; `tests/tail-cases.json` holds both to the same
// behaviour. It is in JavaScript because a panic of the Rust code would otherwise cut off every reader in the isolate.

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const HEARTBEAT = encoder.encode(": heartbeat\n\n");
const EMPTY = new Uint8Array();

const max = (one, other) => (one > other ? one : other);

function concatenated(...parts) {
  const whole = new Uint8Array(parts.reduce((bytes, part) => bytes + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}

const idLine = (next) => `id: ${next}\n`;

function controlEvent(next, cursor, upToDate, closed) {
  const control = { streamNextOffset: next };
  if (!closed) control.streamCursor = String(cursor);
  if (upToDate || closed) control.upToDate = true;
  if (closed) control.streamClosed = true;
  return encoder.encode(`${idLine(next)}event: control\ndata:${JSON.stringify(control)}\n\n`);
}

export class Tail {
  constructor(now, head) {
    this.class = head.class;
    this.incarnation = head.incarnation;
    this.phase = "dialling";
    this.position = head.next;
    this.cursor = head.cursor;
    this.toldUpToDate = false;
    this.attempts = 0;
    this.endsAt = now + head.age_ms_max;
    this.writtenAt = now;
    this.heartbeatMs = head.heartbeat_ms;
    this.redialMsMax = head.redial_ms_max;
    this.cacheControl = head.cache_control;
  }

  get isEnded() {
    return this.phase === "ended";
  }

  get deadline() {
    const writes = this.class === "sse" && (this.phase === "dialling" || this.phase === "attached");
    return writes ? Math.min(this.endsAt, this.writtenAt + this.heartbeatMs) : this.endsAt;
  }

  step(now, chance, input) {
    if (this.isEnded) return [];
    switch (input.type) {
      case "dialled":
        return this.#dialled(now, input.head, input.body);
      case "passed":
        return this.#passed(input.status, chance);
      case "unanswered":
        return this.#redial(chance);
      case "message":
        return this.#message(now, input.frame, input.body);
      case "line-closed":
        if (this.phase !== "attached") return [];
        this.attempts = 0;
        return this.#redial(chance);
      case "pull":
        return this.phase === "behind" ? [this.#dial(0)] : [];
      case "full":
        if (this.phase !== "attached") return [];
        this.phase = "behind";
        return [{ type: "hang-up" }];
      case "tick":
        return this.#tick(now);
      case "client-gone":
        return this.#end();
      default:
        throw new Error(`no such input: ${input.type}`);
    }
  }

  #dialled(now, head, body) {
    if (this.phase !== "dialling" || head.incarnation !== this.incarnation) return this.#end();
    this.attempts = 0;
    this.position = head.next;
    this.cursor = max(this.cursor, head.cursor);
    if (head.attached) {
      this.phase = "attached";
      this.cacheControl = head.cache_control;
      if (this.class === "long-poll" || this.toldUpToDate) return [];
      return [this.#emit(now, EMPTY, true, false)];
    }
    this.phase = "behind";
    const page = this.#emit(now, body, head.up_to_date, head.closed);
    return head.closed ? [page, ...this.#end()] : [page];
  }

  #passed(status, chance) {
    if (this.class === "sse") return status >= 500 ? this.#redial(chance) : this.#end();
    this.phase = "ended";
    return [{ type: "answer-passed" }];
  }

  #message(now, frame, body) {
    if (this.phase !== "attached") return [];
    if (frame.end === "deleted" && this.class === "sse") return this.#end();
    if (frame.from !== this.position || !frame.whole) return [{ type: "hang-up" }, this.#dial(0)];
    this.position = frame.next;
    this.cursor = max(this.cursor, frame.cursor);
    if (this.class === "sse") {
      const closed = frame.end === "closed";
      const emit = this.#emit(now, body, true, closed);
      return closed ? [emit, ...this.#end()] : [emit];
    }
    this.phase = "ended";
    const headers = frame.headers.map(([name, value]) => {
      if (name === "Stream-Cursor") return [name, String(this.cursor)];
      if (name === "Cache-Control" && frame.status === 200) return [name, this.cacheControl];
      return [name, value];
    });
    return [{ type: "hang-up" }, { type: "answer", status: frame.status, headers, body }];
  }

  #tick(now) {
    if (now >= this.endsAt) return this.#end();
    if (now < this.deadline) return [];
    this.writtenAt = now;
    return [{ type: "emit", bytes: HEARTBEAT }];
  }

  #emit(now, data, upToDate, closed) {
    this.writtenAt = now;
    this.toldUpToDate = upToDate;
    const control = controlEvent(this.position, this.cursor, upToDate, closed);
    if (data.byteLength === 0) return { type: "emit", bytes: control };
    return { type: "emit", bytes: concatenated(encoder.encode(idLine(this.position)), data, control) };
  }

  #dial(afterMs) {
    this.phase = "dialling";
    return { type: "dial", from: this.position, after_ms: afterMs };
  }

  #redial(chance) {
    const longest = this.redialMsMax * 2 ** Math.min(this.attempts, 4);
    this.attempts += 1;
    return [this.#dial(Math.floor((longest * chance) / 1000))];
  }

  #end() {
    this.phase = "ended";
    return [{ type: "hang-up" }, { type: this.class === "sse" ? "end" : "answer-held" }];
  }
}

function decodedMessage(message) {
  const length = new DataView(message).getUint32(0, true);
  const frame = JSON.parse(decoder.decode(new Uint8Array(message, 4, length)));
  return { type: "message", frame, body: new Uint8Array(message, 4 + length) };
}

function clientHeaders(response) {
  const headers = new Headers(response.headers);
  headers.delete("Stream-Line");
  return headers;
}

/** Carries out what a `Tail` decides. `client` takes what is for the client: emit, answer, end. */
class Reader {
  constructor(request, response, dial, client) {
    this.request = request;
    this.dial = dial;
    this.client = client;
    this.held = response;
    this.passed = null;
    this.line = null;
    this.timer = null;
    this.timerAt = Infinity;
    this.tail = new Tail(Date.now(), JSON.parse(response.headers.get("Stream-Line")));
  }

  step(input) {
    for (const effect of this.tail.step(Date.now(), Math.floor(Math.random() * 1000), input)) this.#run(effect);
    this.#schedule();
  }

  /** Takes the answer to a dial. */
  async take(response) {
    const text = response.headers.get("Stream-Line");
    if (text === null) {
      this.passed = response;
      return this.step({ type: "passed", status: response.status });
    }
    const line = response.webSocket;
    const body = line ? EMPTY : new Uint8Array(await response.arrayBuffer());
    if (line) {
      if (this.tail.isEnded) return line.accept(), line.close(1000);
      this.#attach(line);
    }
    this.step({ type: "dialled", head: JSON.parse(text), body });
  }

  #attach(line) {
    line.binaryType = "arraybuffer";
    line.accept();
    this.line = line;
    line.addEventListener("message", (event) => {
      if (this.line === line) this.step(decodedMessage(event.data));
    });
    const closed = () => {
      if (this.line !== line) return;
      this.line = null;
      this.step({ type: "line-closed" });
    };
    line.addEventListener("close", closed);
    line.addEventListener("error", closed);
  }

  async #dialFrom(from) {
    const url = new URL(this.request.url);
    url.searchParams.set("offset", from);
    const headers = new Headers(this.request.headers);
    // It says where the client was when it connected.
    headers.delete("Last-Event-ID");
    let response;
    try {
      response = await this.dial(new Request(url, { headers }));
    } catch {
      return this.step({ type: "unanswered" });
    }
    await this.take(response);
  }

  #run(effect) {
    switch (effect.type) {
      case "dial":
        if (effect.after_ms === 0) this.#dialFrom(effect.from).catch(() => this.step({ type: "unanswered" }));
        else setTimeout(() => this.#dialFrom(effect.from).catch(() => this.step({ type: "unanswered" })), effect.after_ms);
        break;
      case "hang-up": {
        const line = this.line;
        this.line = null;
        line?.close(1000);
        break;
      }
      case "emit":
        this.client.emit(effect.bytes);
        break;
      case "answer": {
        const body = effect.status === 204 ? null : effect.body;
        this.client.answer(new Response(body, { status: effect.status, headers: effect.headers }));
        break;
      }
      case "answer-held":
        this.client.answer(new Response(null, { status: 204, headers: clientHeaders(this.held) }));
        break;
      case "answer-passed":
        this.client.answer(this.passed);
        break;
      case "end":
        this.client.end();
        break;
    }
  }

  /** One timer at a time; one that comes early finds nothing to do and is set anew. */
  #schedule() {
    if (this.tail.isEnded) {
      clearTimeout(this.timer);
      return;
    }
    const deadline = this.tail.deadline;
    if (this.timerAt <= deadline) return;
    clearTimeout(this.timer);
    this.timerAt = deadline;
    this.timer = setTimeout(() => {
      this.timerAt = Infinity;
      this.step({ type: "tick" });
    }, Math.max(0, deadline - Date.now()));
  }
}

/** Answers a live read whose first dial was answered with the head of a line. */
export function hold(request, response, dial) {
  const head = JSON.parse(response.headers.get("Stream-Line"));
  return head.class === "sse" ? holdEvents(request, response, head, dial) : holdLongPoll(request, response, dial);
}

async function holdEvents(request, response, head, dial) {
  let controller;
  let ended = false;
  // Tells the tail whether its client reads.
  const pressure = () => {
    if (!ended) reader.step({ type: controller.desiredSize > 0 ? "pull" : "full" });
  };
  const client = {
    emit(bytes) {
      controller.enqueue(bytes);
      queueMicrotask(pressure);
    },
    end() {
      ended = true;
      try {
        controller.close();
      } catch {
        // The client has left, and with it the stream.
      }
    },
  };
  const reader = new Reader(request, response, dial, client);
  const events = new ReadableStream(
    {
      start(given) {
        controller = given;
      },
      pull: pressure,
      cancel() {
        ended = true;
        reader.step({ type: "client-gone" });
      },
    },
    { highWaterMark: head.held_bytes_max, size: (chunk) => chunk.byteLength },
  );
  await reader.take(response);
  return new Response(events, { status: 200, headers: clientHeaders(response) });
}

function holdLongPoll(request, response, dial) {
  return new Promise((answer, reject) => {
    const reader = new Reader(request, response, dial, { answer });
    // That its client has left is not told to a request that writes nothing: the line is let go of in the end.
    reader.take(response).catch(reject);
  });
}
