// The edge cache (`caches.default`) for a Worker under test: the code that wrangler runs on a
// developer's machine.

import { copyFile, mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const repositoryRoot = fileURLToPath(new URL("../..", import.meta.url));
const quoted = (text) => JSON.stringify(text);

const modules = {
  "miniflare-shared.js": "shared/index.worker.js",
  "miniflare-zod.js": "shared/zod.worker.js",
  "miniflare-cache-entry.js": "cache/cache-entry.worker.js",
  "miniflare-cache.js": "cache/cache.worker.js",
};

/**
 * Returns the additional configuration of a server with an edge cache. Writes the files that it
 * embeds into `directory`.
 */
export async function edgeCacheParts(directory, dataDirectory) {
  const inWrangler = createRequire(
    createRequire(path.join(repositoryRoot, "package.json")).resolve("wrangler"),
  );
  const workers = path.join(path.dirname(inWrangler.resolve("miniflare")), "workers");
  for (const [name, source] of Object.entries(modules))
    await copyFile(path.join(workers, source), path.join(directory, name));
  const disk = path.join(dataDirectory, "cache");
  await mkdir(disk, { recursive: true });
  const compatibility = `compatibilityDate = "2023-07-24", compatibilityFlags = ["nodejs_compat", "experimental"]`;
  return {
    options: ["--experimental"],
    services: `
    (name = "cache-disk", disk = (path = ${quoted(disk)}, writable = true)),
    (name = "cache-object", worker = (
      ${compatibility},
      modules = [(name = "miniflare-cache.js", esModule = embed "miniflare-cache.js")],
      durableObjectNamespaces = [(className = "CacheObject", uniqueKey = "miniflare-CacheObject", enableSql = true)],
      durableObjectStorage = (localDisk = "cache-disk"),
      bindings = [(name = "MINIFLARE_BLOBS", service = "cache-disk")],
    )),
    (name = "cache", worker = (
      ${compatibility},
      modules = [(name = "miniflare-cache-entry.js", esModule = embed "miniflare-cache-entry.js")],
      bindings = [
        (name = "MINIFLARE_OBJECT", durableObjectNamespace = (className = "CacheObject", serviceName = "cache-object")),
        (name = "MINIFLARE_CACHE_WARN_USAGE", json = "false"),
      ],
    )),`,
    extensions: `(modules = [
      (name = "miniflare:shared", esModule = embed "miniflare-shared.js"),
      (name = "miniflare:zod", esModule = embed "miniflare-zod.js"),
    ])`,
    worker: `cacheApiOutbound = "cache",`,
  };
}
