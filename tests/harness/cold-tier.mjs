// R2 and D1 for a server under test: the code that wrangler runs on a developer's machine, in the
// server's process, with its data below the server's. A worker of the tests is in between
// (`cold-tier-worker.mjs`). It counts operations. On request it fails, delays or misreports them.

import { copyFile, mkdir, readFile, readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { request } from "./http.mjs";

const repositoryRoot = fileURLToPath(new URL("../..", import.meta.url));
const quoted = (text) => JSON.stringify(text);
const socket = "cold-tier";

const modules = {
  "miniflare-shared.js": "shared/index.worker.js",
  "miniflare-zod.js": "shared/zod.worker.js",
  "miniflare-entry.js": "shared/object-entry.worker.js",
  "miniflare-bucket.js": "r2/bucket.worker.js",
  "miniflare-database.js": "d1/database.worker.js",
};

/** One service of miniflare: its object, and the worker that is bound in its place. */
function service(name, id, className, module, diskPath) {
  const compatibility = `compatibilityDate = "2023-07-24"`;
  return `
    (name = "${name}-disk", disk = (path = ${quoted(diskPath)}, writable = true)),
    (name = "${name}-object", worker = (
      ${compatibility}, compatibilityFlags = ["nodejs_compat", "experimental"],
      modules = [(name = ${quoted(module)}, esModule = embed ${quoted(module)})],
      durableObjectNamespaces = [(className = ${quoted(className)}, uniqueKey = ${quoted(`miniflare-${className}`)}, enableSql = true)],
      durableObjectStorage = (localDisk = "${name}-disk"),
      bindings = [(name = "MINIFLARE_BLOBS", service = "${name}-disk")],
    )),
    (name = "${name}", worker = (
      ${compatibility},
      modules = [(name = "miniflare-entry.js", esModule = embed "miniflare-entry.js")],
      bindings = [
        (name = "MINIFLARE_NAMESPACE", text = ${quoted(id)}),
        (name = "MINIFLARE_OBJECT", durableObjectNamespace = (className = ${quoted(className)}, serviceName = "${name}-object")),
      ],
    )),`;
}

/**
 * Returns the additional configuration of a server with a cold tier. Writes the files that it
 * embeds into `directory`.
 */
export async function coldTierParts(directory, dataDirectory) {
  const inWrangler = createRequire(
    createRequire(path.join(repositoryRoot, "package.json")).resolve("wrangler"),
  );
  const workers = path.join(path.dirname(inWrangler.resolve("miniflare")), "workers");
  for (const [name, source] of Object.entries(modules))
    await copyFile(path.join(workers, source), path.join(directory, name));
  await copyFile(
    path.join(repositoryRoot, "tests/harness/cold-tier-worker.mjs"),
    path.join(directory, "cold-tier-worker.mjs"),
  );
  const disks = Object.fromEntries(
    ["r2", "d1"].map((name) => [name, path.join(dataDirectory, name)]),
  );
  for (const disk of Object.values(disks)) await mkdir(disk, { recursive: true });
  const database = (service) =>
    `wrapped = (moduleName = "cloudflare-internal:d1-api", innerBindings = [(name = "fetcher", service = ${service})])`;
  const between = (entrypoint) => `(name = "${socket}", entrypoint = "${entrypoint}")`;
  return {
    socket,
    options: ["--experimental"],
    services: `${service("r2", "durable-streams", "R2BucketObject", "miniflare-bucket.js", disks.r2)}
    ${service("d1", "durable-streams", "D1DatabaseObject", "miniflare-database.js", disks.d1)}
    (name = "${socket}", worker = (
      compatibilityDate = "2025-01-01",
      modules = [(name = "cold-tier-worker.mjs", esModule = embed "cold-tier-worker.mjs")],
      bindings = [
        (name = "R2", service = "r2"),
        (name = "D1", service = "d1"),
        (name = "BUCKET", r2Bucket = "r2"),
        (name = "DATABASE", ${database(`"d1"`)}),
      ],
    )),`,
    sockets: `(name = "${socket}", address = "127.0.0.1:0", http = (), service = "${socket}"),`,
    extensions: `(modules = [
      (name = "miniflare:shared", esModule = embed "miniflare-shared.js"),
      (name = "miniflare:zod", esModule = embed "miniflare-zod.js"),
    ])`,
    bindings: [
      `(name = "SEGMENTS", r2Bucket = ${between("Bucket")})`,
      `(name = "ADMIN_INDEX", ${database(between("Index"))})`,
    ],
  };
}

/** Inspects and breaks the cold tier without the server's knowledge. */
export class ColdTier {
  constructor(base) {
    this.base = base;
  }

  async #ask(method, path, body) {
    const answer = await request(this.base, path, { method, body });
    if (answer.status !== 200)
      throw new Error(`${method} ${path} answered ${answer.status}: ${answer.text}`);
    return answer;
  }

  /** Applies the migrations once, as wrangler does. */
  async migrate() {
    const directory = path.join(repositoryRoot, "migrations");
    const tables = await this.query("SELECT name FROM sqlite_master WHERE name = 'segments'");
    if (tables.length > 0) return;
    for (const name of (await readdir(directory)).sort()) {
      const text = (await readFile(path.join(directory, name), "utf8")).replace(/--.*$/gm, "");
      for (const statement of text
        .split(";")
        .map((each) => each.trim())
        .filter(Boolean))
        await this.query(statement);
    }
  }

  /** `{ key, size }` of every object. */
  async objects() {
    return (await this.#ask("GET", "/objects")).json();
  }

  /** The objects of one stream. */
  async objectsOf(name) {
    // A key has only a prefix of a long name.
    const prefix = `${Buffer.from(name).subarray(0, 180).toString("base64url")}/`;
    return (await this.objects()).filter(({ key }) => key.startsWith(prefix));
  }

  async object(key) {
    return (await this.#ask("GET", `/object?key=${encodeURIComponent(key)}`)).body;
  }

  async replace(key, bytes) {
    await this.#ask("PUT", `/object?key=${encodeURIComponent(key)}`, bytes);
  }

  async remove(key) {
    await this.#ask("DELETE", `/object?key=${encodeURIComponent(key)}`);
  }

  /** Rows of the admin index. */
  async query(sql, ...values) {
    return (await this.#ask("POST", "/query", JSON.stringify({ sql, values }))).json();
  }

  /** The admin index's rows of a stream's segments. */
  segmentsOf(stream) {
    return this.query("SELECT * FROM segments WHERE path = ? ORDER BY segment", stream.name);
  }

  /** The admin index's row of the stream. */
  indexed(stream) {
    return this.query("SELECT * FROM streams WHERE path = ?", stream.name);
  }

  /**
   * Disturbs operations from now on, by kind (put, get, delete, index). `fail` is the share that
   * fails without an effect, `lie` the share that takes effect and reports a failure, and `delayMs`
   * the longest delay. Kinds that are not named are not disturbed.
   */
  async disturb(faults) {
    await this.#ask("PUT", "/faults", JSON.stringify(faults));
  }

  /** Operations and bytes since the start of the process, by kind. */
  async counts() {
    return (await this.#ask("GET", "/counts")).json();
  }
}
