// The real server is recorded while it writes and syncs. From the recording come images of what
// the disk can hold after a power cut, and the server starts on each. What had been acknowledged or
// read before the cut must be there. POWER_CUT_IMAGES says how many images, and POWER_CUT_SEED
// which.

import { cp, mkdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import { expect, test } from "vitest";
import { startOneMachine } from "../harness/one-machine.mjs";
import { Disk, imageKinds, kind } from "../harness/power-cut.mjs";
import { Random } from "../harness/random.mjs";
import { record, settings } from "../harness/recording.mjs";
import { repositoryRoot, scratchDirectory, shell } from "../harness/server.mjs";
import { producer, Stream } from "../harness/stream.mjs";

const images = Number(process.env.POWER_CUT_IMAGES || 60);
const firstSeed = Number(process.env.POWER_CUT_SEED || 1);
const imagesOfRecording = 15;
const imagesAtOnce = 3;
const failPermille = 30;
const offsetsRead = 4;
const binary = path.join(repositoryRoot, "target/server-test/durable-streams");

/**
 * Draws where the power is cut: after a record of a kind that is drawn first, because rare kinds
 * matter most.
 */
function drawCut(all, random) {
  const isLog = (name) => name?.endsWith("-wal");
  const names = new Map();
  const places = { log: [], file: [], begun: [], ended: [], failed: [], entry: [], sent: [] };
  for (const [at, { kind: what, handle, result, content }] of all.entries()) {
    if (what === kind.opened) names.set(handle, content.toString());
    if (what === kind.written || what === kind.truncated)
      places[isLog(names.get(handle)) ? "log" : "file"].push(at);
    else if (what === kind.syncBegun) places.begun.push(at);
    else if (what === kind.syncEnded) places[result === 0 ? "ended" : "failed"].push(at);
    else if (what === kind.sent) places.sent.push(at);
    else if (what !== kind.opened) places.entry.push(at);
  }
  const drawn = random.of(Object.values(places).filter((some) => some.length > 0));
  return random.of(drawn) + random.below(random.of([1, 1, 5, 50]));
}

/** Starts the server on an image. Throws if it has not what clients knew before the cut. */
async function check({ data, withCold, cut, facts, sent, random, counts }) {
  const env = { ...settings(withCold), ...(withCold ? { COLD: path.join(data, "cold") } : {}) };
  const server = await startOneMachine({ binary, dataDirectory: data, env });
  try {
    const names = new Set(facts.map(({ stream }) => stream));
    for (const name of names) {
      const known = facts.filter(({ stream, at }) => stream === name && at <= cut);
      await checkStream(new Stream(server.url, name), known, sent.get(name), random, counts);
    }
    const stream = await Stream.create(server.url, { body: "new" });
    expect((await stream.get()).text).toBe("new");
  } catch (error) {
    error.message += `\nthe log of the server:\n${server.output()}`;
    throw error;
  } finally {
    await server.kill();
  }
}

async function checkStream(stream, known, sent, random, counts) {
  const is = (what) => known.some((fact) => fact.what === what);
  const head = await stream.head();
  if (is("deleted")) return expect(head.status, `${stream.name} is back`).toBe(404);
  if (head.status === 404) {
    const mayBeGone = !is("exists") || is("leaving");
    return expect(mayBeGone, `${stream.name} is lost`).toBe(true);
  }
  expect(head.status).toBe(200);

  const text = (await stream.bytes()).toString();
  const lines = text.split("\n").map((line) => `${line}\n`);
  expect(lines.pop(), "the last append is not whole").toBe("\n");
  const position = new Map(lines.map((line, index) => [line, index]));
  expect(position.size, "an append is stored twice").toBe(lines.length);
  for (const line of lines) expect(sent?.has(line), `never sent: ${line}`).toBe(true);
  for (const { what, text } of known) {
    if (what !== "stored" && what !== "seen") continue;
    expect(position.has(text), `${what} and lost: ${text.slice(0, 40)}`).toBe(true);
    counts[what] += 1;
  }
  checkOrder(lines);

  const placed = known.filter(({ offset }) => offset !== undefined);
  for (let read = 0; read < Math.min(offsetsRead, placed.length); read += 1) {
    const { text, offset } = read === 0 ? placed.at(-1) : random.of(placed);
    const rest = (await stream.bytes(offset)).toString();
    expect(rest === lines.slice(position.get(text) + 1).join(""), `read from ${offset}`).toBe(true);
    counts.offsets += 1;
  }
  const repeated = known.findLast(({ producer }) => producer);
  if (repeated) {
    const { id, seq } = repeated.producer;
    const again = await stream.append(repeated.text, producer(id, 0, seq));
    expect(again.status, "the producer is forgotten").toBe(204);
  }
  expect((await stream.append("further\n")).status).toBe(204);
  const after = (await stream.bytes(head.offset)).toString();
  expect(after, "what follows the tail").toBe("further\n");
}

/** The appends of a writer are stored in the order in which it sent them. */
function checkOrder(lines) {
  const last = new Map();
  for (const line of lines) {
    const [writer, number] = line.split(".");
    // Clients that delete their streams count downwards.
    const place = writer.startsWith("writer") ? Number(number) : -Number(number);
    expect(place > (last.get(writer) ?? -Infinity), `out of order: ${line.slice(0, 40)}`).toBe(
      true,
    );
    last.set(writer, place);
  }
}

/** Makes images of a recording, and checks them, a few at a time. */
async function checkImages(recording, { directory, count, seed, withCold, forgetsSyncs }, counts) {
  const { root, all, facts, sent } = recording;
  const random = new Random(seed);
  let next = 0;
  const work = async () => {
    while (next < count) {
      const number = next;
      next += 1;
      const imageKind = imageKinds[number % imageKinds.length];
      const cut = drawCut(all, random);
      const ofImage = new Random(random.below(2 ** 31));
      const image = path.join(directory, `image-${number}`);
      const disk = new Disk(root, ofImage, { forgetsSyncs });
      for (const one of all.slice(0, cut + 1)) disk.apply(one);
      await disk.writeImage(image, imageKind);
      const kept = path.join(directory, `kept-${number}`);
      await cp(image, kept, { recursive: true });
      const data = path.join(image, "data");
      try {
        await check({ data, withCold, cut, facts, sent, random: ofImage, counts });
      } catch (error) {
        next = count;
        error.message = `image ${kept} (${imageKind}, after record ${cut}): ${error.message}`;
        throw error;
      }
      counts[imageKind] = (counts[imageKind] ?? 0) + 1;
      await Promise.all([image, kept].map((place) => rm(place, { recursive: true })));
    }
  };
  // All end before a failure is reported, because they use the directory.
  const results = await Promise.allSettled(Array.from({ length: imagesAtOnce }, work));
  const failed = results.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
}

test.runIf(shell === "server" && process.platform === "linux")(
  `a power cut loses nothing that was acknowledged or read, on ${images} images`,
  async () => {
    const counts = { stored: 0, seen: 0, offsets: 0 };
    let failedSyncs = 0;
    const done = { failing: 0, sound: 0 };
    for (let number = 0; done.failing + done.sound < images; number += 1) {
      const isFailing = number % 2 === 0;
      const withCold = number % 4 >= 2;
      const count = Math.min(imagesOfRecording, images - done.failing - done.sound);
      const seed = firstSeed * 1_000 + number;
      const directory = await scratchDirectory("power-cut", { cold: true });
      const recording = await record({
        binary,
        directory,
        seed,
        failPermille: isFailing ? failPermille : 0,
        withCold,
      });
      failedSyncs += await checkRecording(recording);
      await checkImages(recording, { directory, count, seed, withCold }, counts);
      done[isFailing ? "failing" : "sound"] += count;
      await rm(directory, { recursive: true });
    }
    const kinds = imageKinds.map((name) => `${name} ${counts[name] ?? 0}`).join(", ");
    console.log(
      `power cuts: ${done.failing + done.sound} images (${kinds}), ${done.failing} of them of ` +
        `servers with failing syncs (${failedSyncs} failed); ${counts.stored} acknowledged ` +
        `appends and ${counts.seen} that were read were found, ${counts.offsets} offsets read from`,
    );
  },
  60_000 + images * 2_000,
);

/** Compares the model's files with the real ones. Returns how many syncs have failed. */
async function checkRecording({ root, all }) {
  const disk = new Disk(root, new Random(0));
  for (const one of all) disk.apply(one);
  for (const { name, content } of disk.visible()) {
    if (name.endsWith("-shm")) continue;
    const real = await readFile(path.join(root, name));
    expect(real.equals(content), `the recorder has missed a change of ${name}`).toBe(true);
  }
  return disk.failedSyncs;
}

test.runIf(shell === "server" && process.platform === "linux")(
  "images of a disk that forgets syncs are noticed",
  async () => {
    const directory = await scratchDirectory("power-cut", { cold: true });
    const withCold = false;
    const recording = await record({ binary, directory, seed: 1, failPermille: 0, withCold });
    const options = { directory, count: 10, seed: 1, withCold, forgetsSyncs: true };
    const checked = checkImages(recording, options, { stored: 0, seen: 0, offsets: 0 });
    await expect(checked).rejects.toThrow(/is lost|and lost/);
    await rm(directory, { recursive: true });
  },
);
