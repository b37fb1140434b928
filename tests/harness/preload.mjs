// Libraries in C that are loaded into a server before the C library.

import { execFileSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { repositoryRoot } from "./server.mjs";

/** Builds a library from a source file of the repository. Returns its path for `LD_PRELOAD`. */
export function preloaded(source) {
  const library = path.join(repositoryRoot, "target", `${path.basename(source, ".c")}.so`);
  mkdirSync(path.dirname(library), { recursive: true });
  const flags = ["-O2", "-Wall", "-shared", "-fPIC", "-o", library];
  execFileSync("cc", [...flags, path.join(repositoryRoot, source), "-ldl"]);
  return library;
}
