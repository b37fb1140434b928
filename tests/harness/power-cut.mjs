// From what recorder.c has recorded of a server to what its disk can hold after a power cut.
//
// The model is a page cache. A write changes a page of the cache. From then on, the system may
// write the page to the disk at any time, in any order with others, and a power cut can tear it
// between two sectors. A sync that succeeds has written every page that was changed before it
// began. After a sync that failed, the system takes these pages for written, although they may not
// be. They reach the disk only if they are changed again, and a later sync of theirs succeeds. The
// entries of a directory are on the disk once the directory is synced.

import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";

/** @import { Random } from "./random.mjs" */

const pageBytes = 4_096;
const sectorBytes = 512;
const recordBytes = 24;

/** Kinds of records, as in recorder.c. */
export const kind = {
  start: 1,
  opened: 2,
  written: 3,
  truncated: 4,
  syncBegun: 5,
  syncEnded: 6,
  renamed: 7,
  linked: 8,
  removed: 9,
  directoryMade: 10,
  sent: 11,
};

/** What is on the disk of the writes that no successful sync has made durable. */
export const imageKinds = [
  "nothing", // no write
  "everything", // every write, if no failed sync has dropped it
  "ordered", // the writes before some point
  "reordered", // any of them
  "torn", // any sectors of any of them
];

/**
 * @typedef {object} Record
 * @property {number} kind
 * @property {number} handle
 * @property {number} position
 * @property {number} result
 * @property {Buffer} content
 */

/**
 * @param {Buffer} log
 * @returns {Record[]}
 */
export function records(log) {
  const all = [];
  let at = 0;
  while (at + recordBytes <= log.length) {
    const length = log.readUInt32LE(at + 20);
    const content = at + recordBytes;
    all.push({
      kind: log.readUInt32LE(at),
      handle: log.readUInt32LE(at + 4),
      position: Number(log.readBigUInt64LE(at + 8)),
      result: log.readInt32LE(at + 16),
      content: log.subarray(content, content + length),
    });
    at = content + length;
  }
  return all;
}

/**
 * A page as a write has left it, a truncation, or neither if the page was dropped, with the size of
 * the file after it.
 *
 * @typedef {{ at: number, page?: number, bytes?: Buffer, truncates?: boolean, size: number }}
 *   FileChange
 */

/** A file: its pages on the disk, those in the cache, and the changes in between. */
class File {
  /** @type {Map<number, Buffer>} */
  durable = new Map();
  durableSize = 0;
  /** @type {Map<number, Buffer>} */
  cached = new Map();
  size = 0;
  /** @type {FileChange[]} */
  pending = [];

  write(at, position, content) {
    this.size = Math.max(this.size, position + content.length);
    for (let done = 0; done < content.length; ) {
      const page = Math.floor((position + done) / pageBytes);
      const inPage = (position + done) % pageBytes;
      const length = Math.min(pageBytes - inPage, content.length - done);
      const bytes = Buffer.alloc(pageBytes);
      this.cached.get(page)?.copy(bytes);
      content.copy(bytes, inPage, done, done + length);
      this.cached.set(page, bytes);
      this.pending.push({ at, page, bytes, size: this.size });
      done += length;
    }
  }

  truncate(at, size) {
    truncatePages(this.cached, size);
    this.size = size;
    this.pending.push({ at, truncates: true, size });
  }

  /** A sync that began at `begun` has succeeded. */
  synced(begun) {
    for (const { at, page, bytes, truncates, size } of this.pending) {
      if (at >= begun) break;
      if (truncates) truncatePages(this.durable, size);
      if (bytes) this.durable.set(page, bytes);
      this.durableSize = size;
    }
    this.pending = this.pending.filter(({ at }) => at >= begun);
  }

  /**
   * A sync that began at `begun` has failed. The pages that it should have written are not dirty
   * any more, and a few may have been written. The size of the file is not part of a page.
   *
   * @param {number} begun
   * @param {Random} random
   */
  failed(begun, random) {
    const writesSome = random.oneIn(4) && !this.pending.some(({ truncates }) => truncates);
    this.pending = this.pending.map((change) => {
      if (change.at >= begun || !change.bytes) return change;
      const { at, page, bytes, size } = change;
      if (writesSome && random.oneIn(2)) {
        this.durable.set(page, bytes);
        this.durableSize = Math.max(this.durableSize, size);
      }
      return { at, size };
    });
  }

  content() {
    return assembled(this.cached, this.size);
  }

  /** @param {Choice} choice */
  image(choice) {
    const pages = new Map(this.durable);
    let size = this.durableSize;
    for (const { at, page, bytes, truncates, size: after } of this.pending) {
      const isThere = choice.has(at);
      if (truncates) {
        // Nothing that was written after a truncation is there without it.
        if (!isThere) break;
        truncatePages(pages, after);
        size = after;
      } else if (isThere) {
        const before = pages.get(page) ?? Buffer.alloc(pageBytes);
        if (bytes) pages.set(page, choice.written(before, bytes));
        size = Math.max(size, after);
      }
    }
    return assembled(pages, size);
  }
}

function truncatePages(pages, size) {
  const whole = Math.floor(size / pageBytes);
  for (const page of [...pages.keys()]) {
    if (page > whole || (page === whole && size % pageBytes === 0)) pages.delete(page);
    else if (page === whole) {
      const bytes = Buffer.from(pages.get(page));
      bytes.fill(0, size % pageBytes);
      pages.set(page, bytes);
    }
  }
}

function assembled(pages, size) {
  const whole = Buffer.alloc(Math.ceil(size / pageBytes) * pageBytes);
  for (const [page, bytes] of pages) bytes.copy(whole, page * pageBytes);
  return whole.subarray(0, size);
}

/** A directory: its entries on the disk, those in the cache, and the changes in between. */
class Directory {
  /** @type {Map<string, File | Directory>} */
  durable = new Map();
  /** @type {Map<string, File | Directory>} */
  cached = new Map();
  /**
   * Changes of entries. A rename is one change of two entries.
   *
   * @type {EntryChange[]}
   */
  pending = [];

  /** A sync that began at `begun` has succeeded. */
  synced(begun) {
    for (const change of this.pending.filter(({ at }) => at < begun)) {
      for (const { directory, name, node } of change.entries)
        setEntry(directory.durable, name, node);
      for (const directory of new Set(change.entries.map((entry) => entry.directory)))
        directory.pending = directory.pending.filter((other) => other !== change);
    }
  }

  /** The outcome is unknown, and the changes stay. */
  failed() {}

  /** @param {Choice} choice */
  image(choice) {
    const entries = new Map(this.durable);
    for (const change of this.pending.filter(({ at }) => choice.has(at))) {
      for (const { directory, name, node } of change.entries)
        if (directory === this) setEntry(entries, name, node);
    }
    return entries;
  }
}

/**
 * @typedef {{ directory: Directory, name: string, node?: File | Directory }} Entry
 * @typedef {{ at: number, entries: Entry[] }} EntryChange
 */

function setEntry(entries, name, node) {
  if (node === undefined) entries.delete(name);
  else entries.set(name, node);
}

/** Which changes are on the disk that did not have to be. */
class Choice {
  #kind;
  #random;
  #end;
  /** @type {Map<number, boolean>} */
  #chosen = new Map();

  /**
   * @param {string} kind
   * @param {Random} random
   * @param {number} begin
   * @param {number} end
   */
  constructor(kind, random, begin, end) {
    this.#kind = kind;
    this.#random = random;
    this.#end = begin + random.below(end - begin + 1);
  }

  /** Whether the change of a record is there. It is there whole or not at all, unless torn. */
  has(at) {
    if (this.#kind === "nothing") return false;
    if (this.#kind === "everything") return true;
    if (this.#kind === "ordered") return at < this.#end;
    if (!this.#chosen.has(at)) this.#chosen.set(at, this.#random.oneIn(2));
    return this.#chosen.get(at);
  }

  /** A page that was written, perhaps not all of its sectors. */
  written(before, after) {
    if (this.#kind !== "torn" || this.#random.oneIn(2)) return after;
    const page = Buffer.from(before);
    for (let sector = 0; sector < pageBytes; sector += sectorBytes)
      if (this.#random.oneIn(2)) after.copy(page, sector, sector, sector + sectorBytes);
    return page;
  }
}

/** The disk of a recorded server. */
export class Disk {
  #top = new Directory();
  #root;
  #random;
  /** @type {Map<number, File | Directory>} */
  #opened = new Map();
  /** @type {Map<number, number>} The syncs under way: where each began, by its handle. */
  #syncs = new Map();
  #forgetsSyncs;
  #at = 0;
  failedSyncs = 0;

  /**
   * With `forgetsSyncs`, syncs write nothing, and say that they succeeded.
   *
   * @param {string} root
   * @param {Random} random
   */
  constructor(root, random, { forgetsSyncs = false } = {}) {
    this.#root = root;
    this.#random = random;
    this.#forgetsSyncs = forgetsSyncs;
  }

  /** @param {Record} record */
  apply(record) {
    const at = this.#at;
    this.#at += 1;
    const node = this.#opened.get(record.handle);
    switch (record.kind) {
      case kind.start:
        this.#opened.clear();
        this.#syncs.clear();
        return;
      case kind.opened: {
        const found = this.#place(record.content.toString());
        if (record.result === 1) this.#change(at, [{ ...found, node: new File() }]);
        this.#opened.set(record.handle, this.#node(found));
        return;
      }
      case kind.written:
        return asFile(node).write(at, record.position, record.content);
      case kind.truncated:
        return asFile(node).truncate(at, record.position);
      case kind.syncBegun:
        this.#syncs.set(record.handle, at);
        return;
      case kind.syncEnded: {
        const begun = this.#syncs.get(record.handle);
        if (record.result !== 0) {
          this.failedSyncs += 1;
          node.failed(begun, this.#random);
        } else if (!this.#forgetsSyncs) node.synced(begun);
        return;
      }
      case kind.renamed: {
        const [from, to] = this.#two(record);
        const moved = this.#node(from);
        return this.#change(at, [from, { ...to, node: moved }]);
      }
      case kind.linked: {
        const [from, to] = this.#two(record);
        return this.#change(at, [{ ...to, node: this.#node(from) }]);
      }
      case kind.removed:
        return this.#change(at, [this.#place(record.content.toString())]);
      case kind.directoryMade:
        return this.#change(at, [
          { ...this.#place(record.content.toString()), node: new Directory() },
        ]);
    }
  }

  #two(record) {
    const [from, to] = record.content.toString().split("\0");
    return [this.#place(from), this.#place(to)];
  }

  /** @returns {{ directory: Directory, name: string }} */
  #place(full) {
    const parts = path.relative(this.#root, full).split(path.sep);
    const name = parts.pop();
    let directory = this.#top;
    for (const part of parts) {
      const next = directory.cached.get(part);
      if (!(next instanceof Directory)) throw new Error(`${full} was never made`);
      directory = next;
    }
    return { directory, name };
  }

  #node({ directory, name }) {
    if (name === "") return directory;
    const node = directory.cached.get(name);
    if (node === undefined) throw new Error(`${name} was never made`);
    return node;
  }

  /** @param {Entry[]} entries */
  #change(at, entries) {
    const change = { at, entries };
    for (const { directory, name, node } of entries) setEntry(directory.cached, name, node);
    for (const directory of new Set(entries.map((entry) => entry.directory)))
      directory.pending.push(change);
  }

  /** The files as the server saw them, by their paths below the root. */
  visible() {
    return [...walk(this.#top, (directory) => directory.cached)].map(({ name, node }) => ({
      name,
      content: node.content(),
    }));
  }

  /**
   * Writes into a new directory what the disk can hold after a power cut.
   *
   * @param {string} target
   * @param {string} imageKind one of `imageKinds`
   */
  async writeImage(target, imageKind) {
    const begin = Math.max(0, this.#at - this.#random.of([20, 200, 2_000]));
    const choice = new Choice(imageKind, this.#random, begin, this.#at);
    await mkdir(target, { mode: 0o700 });
    const entries = (directory) => directory.image(choice);
    for (const { name, node } of walk(this.#top, entries, true)) {
      const place = path.join(target, name);
      if (node instanceof Directory) await mkdir(place, { mode: 0o700 });
      // SQLite makes its index of the log anew.
      else if (!name.endsWith("-shm")) await writeFile(place, node.image(choice));
    }
  }
}

/** @returns {File} */
function asFile(node) {
  if (!(node instanceof File)) throw new Error("it is not a file");
  return node;
}

/**
 * @param {Directory} directory
 * @param {(directory: Directory) => Map<string, File | Directory>} entries
 * @returns {Generator<{ name: string, node: any }>}
 */
function* walk(directory, entries, withDirectories = false, above = "") {
  for (const [name, node] of entries(directory)) {
    const full = path.join(above, name);
    if (node instanceof File) yield { name: full, node };
    else {
      if (withDirectories) yield { name: full, node };
      yield* walk(node, entries, withDirectories, full);
    }
  }
}
