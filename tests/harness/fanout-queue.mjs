// The fan-out queue of a server under test.

import { copyFile, mkdir } from "node:fs/promises";
import path from "node:path";
import { request } from "./http.mjs";

const socket = "fanout-queue";
const module = "fanout-queue-worker.mjs";

/** Returns the additional configuration of a server with a queue, whose messages survive a kill. */
export async function fanoutQueueParts(directory, dataDirectory) {
  await copyFile(path.join(import.meta.dirname, module), path.join(directory, module));
  const disk = path.join(dataDirectory, "queue");
  await mkdir(disk, { recursive: true });
  return {
    socket,
    options: ["--experimental"],
    services: `
    (name = "queue-disk", disk = (path = ${JSON.stringify(disk)}, writable = true)),
    (name = "${socket}", worker = (
      compatibilityDate = "2025-01-01",
      compatibilityFlags = ["service_binding_extra_handlers", "experimental"],
      modules = [(name = "${module}", esModule = embed "${module}")],
      durableObjectNamespaces = [(className = "FanoutQueue", uniqueKey = "queue", enableSql = true)],
      durableObjectStorage = (localDisk = "queue-disk"),
      bindings = [
        (name = "QUEUE", durableObjectNamespace = "FanoutQueue"),
        (name = "CONSUMER", service = "main"),
      ],
    )),`,
    sockets: `(name = "${socket}", address = "127.0.0.1:0", http = (), service = "${socket}"),`,
    bindings: [`(name = "FANOUT_QUEUE", queue = "${socket}")`],
  };
}

/** Inspects and breaks the queue without the server's knowledge. */
export class FanoutQueue {
  constructor(base) {
    this.base = base;
  }

  /** How many batches and messages it has taken, and what became of them. */
  async counts() {
    const answer = await request(this.base, "/counts");
    return answer.json();
  }

  /**
   * Makes it misbehave until the next call. Each number is the share of cases.
   *
   * @param {object} faults
   * @param {number} [faults.refuse] It takes nothing of a batch.
   * @param {number} [faults.lie] It takes a batch, and says that it did not.
   * @param {number} [faults.repeat] It takes a message twice.
   * @param {number} [faults.forget] It does not hear an acknowledgement.
   * @param {boolean} [faults.shuffles] It brings messages in a random order.
   * @param {boolean} [faults.holds] It brings nothing.
   */
  async misbehave(faults) {
    await request(this.base, "/faults", { method: "POST", body: JSON.stringify(faults) });
  }
}
