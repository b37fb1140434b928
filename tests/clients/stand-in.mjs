// Replaces the reference server in tests of other projects that start one, so that they use the
// server under test.

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
