// The variables that both shells read, as `cargo xtask settings --write` writes them.

import { readFileSync } from "node:fs";

/** @type {{ name: string, least?: number, greatest?: number }[]} */
export const settings = JSON.parse(readFileSync(new URL("settings.json", import.meta.url), "utf8"));
