// A load generator that needs little processor time: it uses raw sockets, builds requests once, and
// hardly parses answers.

import { readFileSync } from "node:fs";
import net from "node:net";
import { preloaded } from "../harness/preload.mjs";

/** Makes each sync of a file take so much longer in all servers that are started from now on. */
export function slowSyncs(ms) {
  process.env.LD_PRELOAD = preloaded("tests/performance/slow-sync.c");
  process.env.SLOW_SYNC_MS = String(ms);
}

/** User and system time, from Linux's clock of 100 ticks a second. Unknown elsewhere. */
export function processorMs(pid) {
  if (process.platform !== "linux") return NaN;
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** The bytes of one request. */
export function prepare(base, method, path, headers = {}, body = "") {
  const lines = [`${method} ${path} HTTP/1.1`, `Host: ${new URL(base).host}`];
  for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
  if (body !== "" || method === "POST") lines.push(`Content-Length: ${Buffer.byteLength(body)}`);
  return Buffer.from(`${lines.join("\r\n")}\r\n\r\n${body}`);
}

/** One connection that sends one request at a time. Answers must have a length or no body. */
export class Connection {
  #socket;
  #pending = "";
  #resolve;
  #reject;

  static open(base) {
    const { hostname, port } = new URL(base);
    const connection = new Connection();
    return new Promise((resolve, reject) => {
      const socket = net.connect({ host: hostname, port: Number(port), noDelay: true }, () =>
        resolve(connection),
      );
      socket.setEncoding("latin1");
      socket.on("data", (text) => connection.#take(text));
      socket.on("error", (error) => (connection.#reject ?? reject)(error));
      socket.on("end", () => connection.#reject?.(new Error("the server closed the connection")));
      connection.#socket = socket;
    });
  }

  /** Resolves to the status of the answer. */
  send(bytes) {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#socket.write(bytes);
    });
  }

  #take(text) {
    this.#pending += text;
    const end = this.#pending.indexOf("\r\n\r\n");
    if (end < 0) return;
    const header = this.#pending.slice(0, end);
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(header)?.[1] ?? 0);
    if (this.#pending.length < end + 4 + length) return;
    this.#pending = "";
    this.#resolve(Number(header.slice(9, 12)));
  }

  close() {
    this.#socket.destroy();
  }
}

export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

export const median = (values) => quantile(values, 0.5);
