// The cold tier of the server for one machine: its directory, or a small S3 service of the tests.
// The S3 service counts operations. On request it fails, delays or misreports them.

import { createHash, randomUUID } from "node:crypto";
import { link, mkdir, open, readFile, readdir, rm, stat, writeFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import { sleep } from "./http.mjs";

const offsetOf = (segment, position) =>
  [segment, position].map((each) => String(each).padStart(16, "0")).join("_");

/** Objects as files below a directory. */
class Tier {
  constructor(directory) {
    this.directory = directory;
  }

  #file(key) {
    return path.join(this.directory, key);
  }

  /** `{ key, size }` of every object, and of any other file. */
  async objects() {
    const entries = await readdir(this.directory, { recursive: true, withFileTypes: true }).catch(
      () => [],
    );
    const files = entries
      .filter((entry) => entry.isFile())
      .map((entry) => path.join(entry.parentPath, entry.name));
    const found = await Promise.all(
      files.map(async (file) => {
        const found = await stat(file).catch(() => undefined);
        return found && { key: path.relative(this.directory, file), size: found.size };
      }),
    );
    return found.filter(Boolean).sort((one, other) => (one.key < other.key ? -1 : 1));
  }

  /** The objects of one stream. */
  async objectsOf(name) {
    // A key has only a prefix of a long name.
    const prefix = `${Buffer.from(name).subarray(0, 180).toString("base64url")}/`;
    return (await this.objects()).filter(({ key }) => key.startsWith(prefix));
  }

  async object(key) {
    return readFile(this.#file(key));
  }

  async replace(key, bytes) {
    await writeFile(this.#file(key), bytes);
  }

  async remove(key) {
    await rm(this.#file(key));
  }

  /** The stored segments that the stream knows, in the format of the Worker's admin index. */
  async segmentsOf(stream) {
    const { segments } = await stream.statistics();
    const sizes = new Map((await this.objectsOf(stream.name)).map(({ key, size }) => [key, size]));
    return segments.map(({ segment, units, messages, key, incarnation }) => ({
      segment,
      start_offset: offsetOf(segment, 0),
      end_offset: offsetOf(segment, units),
      messages,
      r2_key: key,
      bytes: sizes.get(key),
      incarnation,
    }));
  }

  /** There is no admin index. */
  async indexed() {
    return [];
  }

  async close() {}
}

/** The directory that the server uses by default. */
export class DirectoryTier extends Tier {
  static async start(dataDirectory) {
    return new DirectoryTier(path.join(dataDirectory, "cold"));
  }

  environment = {};

  async disturb() {}
}

/** An S3 service with one bucket and the operations that the server needs. Its data survives it. */
export class S3Tier extends Tier {
  #faults = {};
  #counts = {};
  /** The parts of incomplete uploads, by the upload's id. */
  #uploads = new Map();
  /** @type {http.Server} */
  server;
  /** @type {Record<string, string>} */
  environment;

  static async start(dataDirectory) {
    const tier = new S3Tier(path.join(dataDirectory, "s3"));
    await mkdir(tier.directory, { recursive: true });
    tier.server = http.createServer((request, response) => {
      tier.#answer(request, response).catch((error) => response.destroy(error));
    });
    await new Promise((resolve) => tier.server.listen(0, "127.0.0.1", () => resolve(undefined)));
    const address = /** @type {import("node:net").AddressInfo} */ (tier.server.address());
    tier.environment = {
      COLD: "s3://segments/of tests",
      AWS_ENDPOINT: `http://127.0.0.1:${address.port}`,
      AWS_REGION: "auto",
      AWS_ACCESS_KEY_ID: "tests",
      AWS_SECRET_ACCESS_KEY: "secret",
    };
    return tier;
  }

  /** See `ColdTier.disturb`. */
  async disturb(faults) {
    this.#faults = faults;
  }

  async counts() {
    return structuredClone(this.#counts);
  }

  async close() {
    this.server.close();
    this.server.closeAllConnections();
  }

  async #answer(request, response) {
    const url = new URL(request.url, "http://s3");
    const body = await new Promise((resolve, reject) => {
      const parts = [];
      request.on("data", (part) => parts.push(part));
      request.on("end", () => resolve(Buffer.concat(parts)));
      request.on("error", reject);
    });
    const isUpload = url.searchParams.has("uploads") || url.searchParams.has("uploadId");
    const kind = isUpload
      ? "put"
      : { PUT: "put", GET: "get", HEAD: "head", POST: "delete", DELETE: "delete" }[request.method];
    this.#counts[kind] ??= { operations: 0, bytes: 0, failed: 0 };
    const counts = this.#counts[kind];
    counts.operations += 1;
    const { fail = 0, lie = 0, delayMs = 0 } = this.#faults[kind] ?? {};
    const chance = Math.random();
    if (delayMs > 0) await sleep(Math.random() * delayMs);
    const failed = () => {
      counts.failed += 1;
      return respond(response, 500, "disturbed by a test");
    };
    if (chance < fail) return failed();
    const act = {
      put: () => (isUpload ? this.#upload(url, request, body) : this.#put(url, request, body)),
      get: () => this.#get(url, request),
      head: () => this.#get(url, request),
      delete: () => this.#delete(url, body),
    }[kind];
    const [status, answer, headers] = await act();
    if (chance < fail + lie) return failed();
    counts.bytes += kind === "put" ? body.length : kind === "get" ? answer.length : 0;
    respond(response, status, kind === "head" ? "" : answer, headers);
  }

  #file(key) {
    const begin = "of tests/";
    if (!key.startsWith(begin)) throw new Error(`a key without the prefix: ${key}`);
    return path.join(this.directory, key.slice(begin.length));
  }

  #fileOf(url) {
    const [, bucket, ...key] = url.pathname.split("/");
    if (bucket !== "segments") throw new Error(`another bucket: ${bucket}`);
    return this.#file(decodeURIComponent(key.join("/")));
  }

  /** Handles a step of a multipart upload: begin, part, completion or abort. */
  async #upload(url, request, body) {
    const xml = (name, content) => [
      200,
      `<?xml version="1.0" encoding="UTF-8"?><${name} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${content}</${name}>`,
    ];
    const id = url.searchParams.get("uploadId") ?? randomUUID();
    const parts = this.#uploads.get(id);
    if (url.searchParams.has("uploads")) {
      this.#uploads.set(id, new Map());
      return xml("InitiateMultipartUploadResult", `<UploadId>${id}</UploadId>`);
    }
    if (parts === undefined) return [404, "<Error><Code>NoSuchUpload</Code></Error>"];
    if (request.method === "PUT") {
      parts.set(Number(url.searchParams.get("partNumber")), body);
      return [200, "", { ETag: tag(body) }];
    }
    this.#uploads.delete(id);
    if (request.method === "DELETE") return [204, ""];
    const numbers = [...body.toString().matchAll(/<PartNumber>(\d+)<\/PartNumber>/g)].map((match) =>
      Number(match[1]),
    );
    const whole = Buffer.concat(numbers.map((number) => parts.get(number)));
    const [status, answer, headers] = await this.#store(url, whole);
    return status === 200
      ? xml("CompleteMultipartUploadResult", `<ETag>${headers.ETag}</ETag>`)
      : [status, answer];
  }

  async #put(url, request, body) {
    if (request.headers["if-none-match"] !== "*") return [400, "a put that may overwrite"];
    return this.#store(url, body);
  }

  /** @returns {Promise<[number, string, Record<string, string>?]>} */
  async #store(url, body) {
    const file = this.#fileOf(url);
    await mkdir(path.dirname(file), { recursive: true });
    const staged = path.join(path.dirname(this.directory), `s3-${randomUUID()}`);
    const handle = await open(staged, "wx");
    await handle.writeFile(body);
    await handle.close();
    try {
      // Fails if the object exists, and leaves it unchanged.
      await link(staged, file);
    } catch (error) {
      if (error.code === "EEXIST") return [412, "<Error><Code>PreconditionFailed</Code></Error>"];
      throw error;
    } finally {
      await rm(staged);
    }
    return [200, "", { ETag: tag(body) }];
  }

  async #get(url, request) {
    const bytes = await readFile(this.#fileOf(url)).catch(() => undefined);
    if (bytes === undefined) return [404, "<Error><Code>NoSuchKey</Code></Error>"];
    const common = { ETag: tag(bytes), "Last-Modified": new Date(0).toUTCString() };
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (!range)
      return [
        200,
        bytes,
        { ...common, ...(request.method === "HEAD" ? { "Content-Length": bytes.length } : {}) },
      ];
    const [begin, end] = [Number(range[1]), Math.min(Number(range[2]), bytes.length - 1)];
    if (begin >= bytes.length) return [416, "<Error><Code>InvalidRange</Code></Error>"];
    return [
      206,
      bytes.subarray(begin, end + 1),
      { ...common, "Content-Range": `bytes ${begin}-${end}/${bytes.length}` },
    ];
  }

  async #delete(url, body) {
    if (!url.searchParams.has("delete")) {
      await rm(this.#fileOf(url), { force: true });
      return [204, ""];
    }
    const keys = [...body.toString().matchAll(/<Key>([^<]*)<\/Key>/g)].map((match) => match[1]);
    for (const key of keys) await rm(this.#file(key), { force: true });
    const deleted = keys.map((key) => `<Deleted><Key>${key}</Key></Deleted>`).join("");
    return [
      200,
      `<?xml version="1.0" encoding="UTF-8"?><DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${deleted}</DeleteResult>`,
    ];
  }
}

const tag = (bytes) => `"${createHash("sha256").update(bytes).digest("hex").slice(0, 32)}"`;

function respond(response, status, body, headers = {}) {
  response.writeHead(status, { "Content-Length": Buffer.byteLength(body), ...headers });
  response.end(body);
}
