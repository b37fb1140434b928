// The published transports of two chat libraries, unchanged, against the server.

import { createServer } from "node:http";
import {
  createDurableChatTransport,
  toDurableStreamResponse,
} from "@durable-streams/aisdk-transport";
import {
  durableStreamConnection,
  ensureDurableChatSessionStream,
  materializeSnapshotFromDurableStream,
  pipeSanitizedChunksToStream,
  toDurableChatSessionResponse,
  toDurableStreamResponse as toTanStackResponse,
} from "@durable-streams/tanstack-ai-transport";
import { readUIMessageStream } from "ai";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { eventually, sleep } from "../harness/http.mjs";
import { startServer } from "../harness/server.mjs";
import { freshName } from "../harness/stream.mjs";

let server;
beforeAll(async () => {
  // Both libraries warn about URLs without https.
  vi.spyOn(console, "warn").mockImplementation(() => {});
  server = await startServer({ bundle: "target/worker", env: { LONG_POLL_TIMEOUT_MS: 1_000 } });
});
afterAll(() => server?.stop());

const freshUrl = () => `${server.url}/v1/stream/${freshName("chat")}`;
const words = ["Durable", " streams", "  keep", "\n", "every", " word", " 😀", "."];

async function all(source) {
  const items = [];
  for await (const item of source) items.push(item);
  return items;
}

/** Items with pauses between them, so that a reader can follow them. */
async function* slowly(items, pauseMs = 5) {
  for (const item of items) {
    await sleep(pauseMs);
    yield item;
  }
}

/** A chat's own server. It answers each request with the result of `handle` for its body. */
async function chatServer(handle) {
  const listening = createServer(async (incoming, outgoing) => {
    const parts = await all(incoming);
    const answer = await handle(incoming, Buffer.concat(parts).toString());
    outgoing.writeHead(answer.status, Object.fromEntries(answer.headers));
    outgoing.end(await answer.text());
  });
  await new Promise((resolve) => listening.listen(0, "127.0.0.1", resolve));
  const stop = () => new Promise((resolve) => listening.close(resolve));
  return { url: `http://127.0.0.1:${listening.address().port}`, stop };
}

describe("@durable-streams/aisdk-transport", () => {
  const answerOf = (deltas) => [
    { type: "start", messageId: "answer" },
    { type: "text-start", id: "text" },
    ...deltas.map((delta) => ({ type: "text-delta", id: "text", delta })),
    { type: "text-end", id: "text" },
    { type: "finish" },
  ];

  /** The text of an answer, assembled by the library's own reader. */
  async function textOf(stream) {
    const last = (await all(readUIMessageStream({ stream }))).at(-1);
    return last.parts
      .filter(({ type }) => type === "text")
      .map(({ text }) => text)
      .join("");
  }

  /** A chat that writes its answers to a stream, and the transport of its page. */
  async function chat({ mode, deltas, pauseMs }) {
    const url = freshUrl();
    const api = await chatServer(async ({ method }) => {
      if (method === "GET") return Response.json({ streamUrl: url });
      return toDurableStreamResponse({
        source: slowly(answerOf(deltas), pauseMs),
        stream: { writeUrl: url },
        mode,
      });
    });
    const transport = createDurableChatTransport({ api: api.url, reconnectApi: api.url });
    const send = (abortSignal) =>
      transport.sendMessages({
        trigger: "submit-message",
        chatId: "chat",
        messageId: undefined,
        messages: [],
        abortSignal,
      });
    return { url, transport, send, stop: api.stop };
  }

  test.each(["immediate", "await"])(
    "an answer arrives word by word and ends (%s)",
    async (mode) => {
      const { send, stop } = await chat({ mode, deltas: words });
      expect(await textOf(await send())).toBe(words.join(""));
      await stop();
    },
  );

  test("a page that is loaded again resumes the running answer from its start", async () => {
    const { send, transport, stop } = await chat({ mode: "immediate", deltas: words, pauseMs: 30 });
    const leaving = new AbortController();
    const first = (await send(leaving.signal)).getReader();
    await first.read();
    leaving.abort();
    expect(await textOf(await transport.reconnectToStream({ chatId: "chat" }))).toBe(
      words.join(""),
    );
    await first.cancel().catch(() => {});
    await stop();
  });

  test("a finished answer of 4 MB can be read again completely", async () => {
    const deltas = Array.from({ length: 64 }, (_, index) => String(index).padStart(64_000, "."));
    const { send, transport, stop } = await chat({ mode: "await", deltas, pauseMs: 0 });
    await (await send()).cancel();
    expect(await textOf(await transport.reconnectToStream({ chatId: "chat" }))).toBe(
      deltas.join(""),
    );
    await stop();
  });
});

describe("@durable-streams/tanstack-ai-transport", () => {
  const answerOf = (deltas, messageId = "answer") => [
    { type: "TEXT_MESSAGE_START", messageId, role: "assistant" },
    ...deltas.map((delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId, delta })),
    { type: "TEXT_MESSAGE_END", messageId },
  ];
  const question = (text) => ({
    id: `question-${text}`,
    role: "user",
    parts: [{ type: "text", content: text }],
  });
  const texts = (messages) =>
    messages.map(({ parts }) => parts.map(({ content }) => content).join(""));

  test("an answer of its own stream arrives and ends", async () => {
    const url = freshUrl();
    const chunks = answerOf(words);
    const answer = await toTanStackResponse(slowly(chunks), { stream: { writeUrl: url } });
    expect(answer.headers.get("Location")).toBe(url);
    const connection = durableStreamConnection({
      sendUrl: url,
      readUrl: url,
      emitSnapshotOnSubscribe: false,
    });
    expect(await all(connection.subscribe())).toEqual(chunks);
  });

  test("an answer that the server waits for is stored when the server responds", async () => {
    const url = freshUrl();
    const answer = await toTanStackResponse(slowly(answerOf(words)), {
      stream: { writeUrl: url },
      mode: "await",
    });
    const { messages, offset } = await materializeSnapshotFromDurableStream({ readUrl: url });
    expect(texts(messages)).toEqual([words.join("")]);
    expect((await answer.json()).finalOffset).toBe(offset);
  });

  test("a session begins with a snapshot and continues with new items", async () => {
    const url = freshUrl();
    const api = await chatServer(async (_, body) => {
      const newMessages = JSON.parse(body).messages;
      return toDurableChatSessionResponse({
        stream: { writeUrl: url },
        newMessages,
        responseStream: slowly(answerOf(words)),
        mode: "await",
      });
    });
    const connection = durableStreamConnection({ sendUrl: api.url, readUrl: url });
    await connection.send([question("first")]);

    const leaving = new AbortController();
    const seen = [];
    const following = (async () => {
      for await (const chunk of connection.subscribe(leaving.signal)) seen.push(chunk);
    })().catch(() => {});
    await eventually("the snapshot", () => seen.length > 0);
    expect(seen[0].type).toBe("MESSAGES_SNAPSHOT");
    expect(texts(seen[0].messages)).toEqual(["first", words.join("")]);

    await connection.send([question("second")]);
    await eventually(
      "the second answer",
      () => seen.at(-1).type === "TEXT_MESSAGE_END" && seen.at(-1).messageId === "answer",
    );
    expect(
      seen
        .slice(1)
        .filter(({ type }) => type === "TEXT_MESSAGE_CONTENT")
        .map(({ delta }) => delta),
    ).toEqual(["second", ...words]);
    leaving.abort();
    await following;
    await api.stop();
  });

  test("a snapshot of 4 MB for the server's first page is complete", async () => {
    const url = freshUrl();
    const deltas = Array.from({ length: 64 }, (_, index) => String(index).padStart(64_000, "."));
    const stream = await ensureDurableChatSessionStream({ writeUrl: url });
    await pipeSanitizedChunksToStream(slowly(answerOf(deltas), 0), stream);
    const { messages, offset } = await materializeSnapshotFromDurableStream({ readUrl: url });
    expect(texts(messages)).toEqual([deltas.join("")]);
    expect(offset).toBe((await stream.head()).offset);
  });
});
