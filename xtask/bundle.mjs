// Makes one module of the Worker's entry and of what worker-build generated from the crate.
// Arguments: the entry, the directory that worker-build filled, the file to write.

import path from "node:path";
import { build } from "esbuild";

const [entry, generated, outfile] = process.argv.slice(2);

await build({
  entryPoints: [entry],
  outfile,
  bundle: true,
  format: "esm",
  target: "es2022",
  logLevel: "warning",
  external: ["cloudflare:*"],
  plugins: [
    {
      // The entry names the directory that a deployment is built in; a variant lies in another.
      name: "generated",
      setup({ onResolve }) {
        onResolve({ filter: /^\.\.\/build\/index\.js$/ }, () => ({
          path: path.join(generated, "index.js"),
        }));
        onResolve({ filter: /\/index_bg\.wasm$/ }, () => ({
          path: "./index_bg.wasm",
          external: true,
        }));
      },
    },
  ],
});
