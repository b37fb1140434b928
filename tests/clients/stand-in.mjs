// Takes the place of the reference server in tests of others that start one: they get the server under test.

import { startServer } from "../harness/server.mjs";

export class DurableStreamTestServer {
  async start() {
    this.server = await startServer({ bundle: "target/worker" });
    return this.url;
  }
  get url() {
    return this.server.url;
  }
  stop() {
    return this.server.stop();
  }
}
