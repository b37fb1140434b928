// Analytics Engine for a Worker under test: what takes the data points, and the SQL API, on
// loopback. It understands no SQL, and answers what a test has put there.

import { createServer } from "node:http";

const quoted = (text) => JSON.stringify(text);

// An object that a Worker has in the place of a dataset.
const discarding = "export default () => ({ writeDataPoint() {} });";

export class Analytics {
  constructor() {
    /** The points as the runtime sends them: texts are lists of bytes. */
    /** @type {Record<string, any>[]} */
    this.points = [];
    /** @type {{ sql: string, authorization: string | undefined }[]} */
    this.questions = [];
    /** @type {{ status: number, body: string }} */
    this.answer = { status: 200, body: '{"data":[]}' };
    this.isDown = false;
    this.port = 0;
    this.server = createServer((request, response) => {
      let body = "";
      request.setEncoding("utf8").on("data", (text) => {
        body += text;
      });
      request.on("end", () => {
        if (request.url === "/") {
          response.statusCode = this.isDown ? 500 : 204;
          if (!this.isDown) this.points.push(JSON.parse(body));
          return response.end();
        }
        this.questions.push({ sql: body, authorization: request.headers.authorization });
        response.statusCode = this.answer.status;
        return response.end(this.answer.body);
      });
    });
  }

  /** Starts it. */
  static async start() {
    const analytics = new Analytics();
    await new Promise((resolve) => analytics.server.listen(0, "127.0.0.1", () => resolve(null)));
    const address = analytics.server.address();
    if (address === null || typeof address === "string") throw new Error("it has no port");
    analytics.port = address.port;
    return analytics;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** All points, as records. */
  get events() {
    return this.points.map((point) => {
      const text = (name) => Buffer.from(point[name] ?? []).toString();
      return {
        index: text("index1"),
        schema: text("blob1"),
        event: text("blob2"),
        stream: text("blob3"),
        status: text("blob4"),
        calls: point.double1,
        messages: point.double2,
        bytes: point.double3,
        duration: point.double4,
        weight: point.double5,
      };
    });
  }

  /** The points of a stream. */
  of(stream) {
    return this.events.filter((event) => event.stream === stream);
  }

  /** @returns {Promise<void>} */
  stop() {
    return new Promise((resolve) => {
      this.server.closeAllConnections();
      this.server.close(() => resolve());
    });
  }
}

/**
 * Returns the additional configuration of a Worker whose `METRICS` sends its points to `analytics`,
 * or discards them.
 *
 * @param {Analytics | "discarded"} analytics
 */
export function analyticsParts(analytics) {
  if (analytics === "discarded") {
    return {
      options: ["--experimental"],
      services: "",
      modules: `(name = "test:metrics", internal = true, esModule = ${quoted(discarding)}),`,
      bindings: [`(name = "METRICS", wrapped = (moduleName = "test:metrics"))`],
    };
  }
  const address = `127.0.0.1:${analytics.port}`;
  return {
    options: ["--experimental"],
    services: `(name = "durable_streams_metrics", external = (address = "${address}", http = ())),`,
    modules: "",
    bindings: [`(name = "METRICS", analyticsEngine = "durable_streams_metrics")`],
  };
}
