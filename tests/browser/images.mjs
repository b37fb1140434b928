// Makes the images of the documentation from the pages in a directory.

import { stat } from "node:fs/promises";
import { openChromium } from "../harness/chromium.mjs";
import { urlOf } from "./pages.mjs";

/** A larger image slows down everybody who reads the document. */
const BYTES_MAX = 200_000;

const [directory] = process.argv.slice(2);
const browser = await openChromium();
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 } });
  await page.goto(urlOf(directory, "planted"));
  await page.locator("body[data-run=same]").waitFor();
  // The timeline draws with the next frame.
  await page.waitForTimeout(200);
  const path = "docs/images/simulation-report.png";
  await page.screenshot({ path });
  const { size } = await stat(path);
  if (size > BYTES_MAX) throw new Error(`${path} has ${size} bytes, ${BYTES_MAX} allowed`);
  console.log(`${path}: ${size} bytes`);
} finally {
  await browser.close();
}
