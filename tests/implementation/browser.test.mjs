// A browser shows stored content, but runs no script on the server's origin. This needs Chromium
// (Debian: apt install chromium-headless-shell). CHROMIUM names its program.

import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { executablePath, openChromium } from "../harness/chromium.mjs";
import { eventually, sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { Stream } from "../harness/stream.mjs";

// A script has run after this time.
const settleMs = 500;

// When a script runs, it appends to another stream and changes the title of the page.
const script = (target) =>
  `document.title = "ran"; fetch(${JSON.stringify(target)}, { method: "POST", headers: { "Content-Type": "text/plain" }, body: "script" });`;
const hostile = {
  "HTML with a script": [
    "text/html",
    (target) =>
      `<!doctype html><title>page</title><p id="shown">shown</p><script>${script(target)}</script>`,
  ],
  "HTML with handlers": [
    "text/html; charset=utf-8",
    (target) =>
      `<!doctype html><p id="shown">shown</p><img src="x" onerror='${script(target)}'><body onload='${script(target)}'>`,
  ],
  "HTML with a script of another stream": [
    "text/html",
    (target, library) => `<!doctype html><p id="shown">shown</p><script src="${library}"></script>`,
  ],
  "HTML with a form that sends itself": [
    "text/html",
    (target) =>
      `<!doctype html><p id="shown">shown</p><form id="form" method="post" action="${target}" enctype="text/plain"><input name="a" value="b" autofocus onfocus="this.form.submit()"></form>`,
  ],
  "HTML with a frame": [
    "text/html",
    (target) =>
      `<!doctype html><p id="shown">shown</p><iframe srcdoc='<script>${script(target)}</script>'></iframe>`,
  ],
  "HTML that leads elsewhere": [
    "text/html",
    (target) =>
      `<!doctype html><meta http-equiv="refresh" content="0; url=javascript:${encodeURIComponent(script(target))}"><p id="shown">shown</p>`,
  ],
  "an SVG image": [
    "image/svg+xml",
    (target) =>
      `<svg xmlns="http://www.w3.org/2000/svg" id="shown"><script>${script(target)}</script></svg>`,
  ],
  XHTML: [
    "application/xhtml+xml",
    (target) =>
      `<html xmlns="http://www.w3.org/1999/xhtml"><body id="shown"><script>${script(target)}</script></body></html>`,
  ],
  "XML with a style sheet that makes a script": [
    "text/xml",
    (target, library, sheet) =>
      `<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="${sheet}"?><shown id="shown"/>`,
  ],
};

describe.skipIf(!existsSync(executablePath))("stored content in Chromium", () => {
  let server;
  let context;
  let profile;

  beforeAll(async () => {
    server = await startServer();
    profile = await mkdtemp(path.join(tmpdir(), "durable-streams-chromium-"));
    context = await openChromium(profile);
  });

  afterAll(async () => {
    await context?.close();
    await rm(profile, { recursive: true, force: true });
    await server?.stop();
  });

  async function open(url) {
    const page = await context.newPage();
    onTestFinished(() => page.close());
    await page.goto(url, { waitUntil: "commit" });
    await page.waitForLoadState("load");
    await sleep(settleMs);
    return page;
  }

  test.each(Object.entries(hostile))("%s runs nothing", async (what, [contentType, content]) => {
    const target = await Stream.create(server.url, { body: "untouched" });
    const library = await Stream.create(server.url, {
      contentType: "text/javascript",
      body: script(target.url),
    });
    const sheet = await Stream.create(server.url, {
      contentType: "text/xsl",
      body: `<x:stylesheet version="1.0" xmlns:x="http://www.w3.org/1999/XSL/Transform"><x:template match="/"><html><script>${script(target.url)}</script></html></x:template></x:stylesheet>`,
    });
    const stream = await Stream.create(server.url, {
      contentType,
      body: content(target.url, library.url, sheet.url),
    });
    for (const query of ["", "?offset=-1", "?offset=-1&live=long-poll"]) {
      const page = await open(stream.url + query);
      expect(await page.title()).not.toBe("ran");
      expect((await target.get()).text).toBe("untouched");
    }
  });

  test("without the headers the same page runs its script", async () => {
    const target = await Stream.create(server.url, { body: "touched by a " });
    const [contentType, content] = hostile["HTML with a script"];
    const other = http.createServer((_, response) =>
      response.setHeader("Content-Type", contentType).end(content(target.url)),
    );
    await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => other.close());
    const page = await open(`http://127.0.0.1:${other.address().port}/`);
    expect(await page.title()).toBe("ran");
    await eventually(
      "the script has run",
      async () => (await target.get()).text === "touched by a script",
    );
  });

  test("a page of an unlisted origin can neither read nor write", async () => {
    const guarded = await startServer({ env: { CORS_ORIGINS: "https://app.example" } });
    onTestFinished(() => guarded.stop());
    const target = await Stream.create(guarded.url, { body: "untouched" });
    const other = http.createServer((_, response) =>
      response.setHeader("Content-Type", "text/html").end("<!doctype html>"),
    );
    await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => other.close());
    const page = await open(`http://127.0.0.1:${other.address().port}/`);
    const outcomes = await page.evaluate(async (url) => {
      const attempt = (options) =>
        fetch(url, options).then(
          (response) => response.text(),
          () => "refused",
        );
      const simple = { method: "POST", headers: { "Content-Type": "text/plain" }, body: "x" };
      return Promise.all([
        attempt({}),
        attempt(simple),
        attempt({ ...simple, mode: "no-cors" }),
        attempt({ method: "DELETE" }),
      ]);
    }, target.url);
    expect(outcomes).toEqual(["refused", "refused", "refused", "refused"]);
    expect((await target.get()).text).toBe("untouched");
  });

  test("by default a page of any origin reads and writes, with libraries' headers", async () => {
    const target = await Stream.create(server.url, { body: "abc" });
    const other = http.createServer((_, response) =>
      response.setHeader("Content-Type", "text/html").end("<!doctype html>"),
    );
    await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => other.close());
    const page = await open(`http://127.0.0.1:${other.address().port}/`);
    const [status, next, text] = await page.evaluate(async (url) => {
      const headers = {
        "Content-Type": "text/plain",
        "Cache-Control": "no-cache",
        Pragma: "no-cache",
        "Idempotency-Key": "k",
        "X-Requested-With": "XMLHttpRequest",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate: "a=b",
        baggage: "c=d",
      };
      const posted = await fetch(url, { method: "POST", headers, body: "def" });
      const read = await fetch(url, {
        headers: { "Last-Event-ID": "x", "Cache-Control": "no-cache" },
      });
      return [posted.status, posted.headers.get("Stream-Next-Offset"), await read.text()];
    }, target.url);
    expect([status, text]).toEqual([204, "abcdef"]);
    expect(next).toBe((await target.head()).offset);
  });
});
