// The variables that the shell under test reads, as `cargo xtask settings --write` writes them.

import { readFileSync } from "node:fs";
import { shell } from "./server.mjs";

/** @type {{ name: string, shell?: string, least?: number, greatest?: number }[]} */
const all = JSON.parse(readFileSync(new URL("settings.json", import.meta.url), "utf8"));
export const settings = all.filter((setting) => (setting.shell ?? shell) === shell);
