// Builds the admin page into a directory: `node admin/build.mjs <directory>`. The names of all
// files but index.html contain a hash of their content, so that they can be cached for ever.

import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const source = fileURLToPath(new URL(".", import.meta.url));
const target = path.resolve(process.argv[2] ?? path.join(source, "dist"));

const { outputFiles } = await build({
  entryPoints: [
    { in: path.join(source, "src/main.tsx"), out: "main" },
    { in: path.join(source, "src/icon.svg"), out: "icon" },
  ],
  outdir: target,
  entryNames: "[name]-[hash]",
  bundle: true,
  write: false,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  loader: { ".svg": "copy" },
  legalComments: "none",
  // Only `cargo xtask dev` names a report.
  define: { SIMULATION_REPORT: JSON.stringify(process.env.SIMULATION_REPORT ?? "") },
  logLevel: "warning",
});

const files = new Map(outputFiles.map((file) => [path.basename(file.path), file.contents]));
const named = (end) => {
  const found = [...files.keys()].filter((name) => name.endsWith(end));
  if (found.length !== 1) throw new Error(`there are ${found.length} files with the end ${end}`);
  return found[0];
};
const template = await readFile(path.join(source, "index.html"), "utf8");
const index = template
  .replace("{icon}", named(".svg"))
  .replace("{style}", named(".css"))
  .replace("{script}", named(".js"));

// It is made beside its place and moved there whole.
const fresh = `${target}.new`;
await rm(fresh, { recursive: true, force: true });
await mkdir(path.join(fresh, "assets"), { recursive: true });
for (const [name, content] of files) await writeFile(path.join(fresh, "assets", name), content);
await writeFile(path.join(fresh, "index.html"), index);
await rm(target, { recursive: true, force: true });
await rename(fresh, target);
