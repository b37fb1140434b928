// A receiver of webhooks (protocol 6.5), on this machine.

import http from "node:http";
import { sleep } from "./http.mjs";

/**
 * @typedef {object} Delivery
 * @property {number} at
 * @property {string | undefined} path
 * @property {http.IncomingHttpHeaders} headers
 * @property {string} text
 * @property {any} body
 */

/** @typedef {{ status: number, body: string, headers?: Record<string, string> }} Answer */

/** Takes webhooks, and answers as the test says. */
export class Receiver {
  /** @type {Delivery[]} */
  deliveries = [];
  /** @type {((value?: unknown) => void)[]} */
  #waiting = [];
  /** @type {(delivery: Delivery) => Answer | Promise<Answer>} */
  answer = () => ({ status: 200, body: '{"done":true}' });

  /**
   * @param {http.Server} server
   * @param {string} url
   */
  constructor(server, url) {
    this.server = server;
    this.url = url;
  }

  static async start() {
    /** @type {Receiver} */
    let receiver;
    const server = http.createServer(async (incoming, outgoing) => {
      const pieces = [];
      for await (const piece of incoming) pieces.push(piece);
      const text = Buffer.concat(pieces).toString();
      const delivery = {
        at: Date.now(),
        path: incoming.url,
        headers: incoming.headers,
        text,
        body: JSON.parse(text),
      };
      receiver.deliveries.push(delivery);
      for (const wake of receiver.#waiting.splice(0)) wake();
      const { status, body, headers } = await receiver.answer(delivery);
      outgoing.writeHead(status, headers).end(body);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
    const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
    receiver = new Receiver(server, `http://127.0.0.1:${port}`);
    return receiver;
  }

  /** @param {string} id */
  of(id) {
    return this.deliveries.filter(({ body }) => body.subscription_id === id);
  }

  /**
   * Waits until a subscription has had this many deliveries, and returns the last of them.
   *
   * @param {string} id
   * @param {number} count
   */
  async until(id, count, timeoutMs = 30_000) {
    const deadline = Date.now() + timeoutMs;
    while (this.of(id).length < count) {
      if (Date.now() > deadline) {
        throw new Error(`${id} has ${this.of(id).length} deliveries, not ${count}`);
      }
      await Promise.race([sleep(100), new Promise((resolve) => this.#waiting.push(resolve))]);
    }
    return this.of(id)[count - 1];
  }

  stop() {
    this.server.closeAllConnections();
    return new Promise((resolve) => this.server.close(resolve));
  }
}
