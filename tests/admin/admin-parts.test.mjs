// The parts of the admin page that need no browser.

import { describe, expect, test } from "vitest";
import { elementsOf, parseJson } from "../../admin/src/streams/json.ts";
import { Log, bytesOf, formOf, hexOf, offsetOf } from "../../admin/src/streams/log.ts";
import { canonicalName, readableName } from "../../admin/src/streams/names.ts";
import { readOffset, shortOffset } from "../../admin/src/streams/offsets.ts";
import { shellWord } from "../../admin/src/streams/curl.ts";
import { placeOf } from "../../admin/src/router.tsx";
import { Random } from "../harness/random.mjs";

globalThis.requestAnimationFrame ??= (callback) => {
  callback(0);
  return 0;
};

const encoder = new TextEncoder();

const part = (from, next, content) => ({
  from,
  next,
  bytes: typeof content === "string" ? encoder.encode(content) : Uint8Array.from(content),
  contentType: "",
  isUpToDate: true,
  isClosed: false,
});

const at = (segment, position) =>
  `${String(segment).padStart(16, "0")}_${String(position).padStart(16, "0")}`;

describe("JSON", () => {
  test("the elements of an array are cut out as they were sent", () => {
    for (const [array, elements] of [
      ["[]", []],
      [" [ ] ", []],
      ["[1]", ["1"]],
      ['[ {"a" : [1, 2]} , "x,]\\"" ,null]', ['{"a" : [1, 2]}', '"x,]\\""', "null"]],
      ["[[],[[]],{}]", ["[]", "[[]]", "{}"]],
      ['["\\\\",1.0e2]', ['"\\\\"', "1.0e2"]],
    ]) {
      expect(elementsOf(array)).toEqual(elements);
    }
  });

  test("any array is cut into its elements", () => {
    const random = new Random(7);
    const letters = ['"', "\\", "[", "]", "{", "}", ",", "ä", "x", " "];
    const value = (depth) => {
      const kind = random.below(depth > 3 ? 3 : 5);
      const size = random.below(4);
      const text = () => Array.from({ length: size }, () => random.of(letters)).join("");
      if (kind === 0) return random.below(1_000) / 8;
      if (kind === 1) return random.oneIn(2) ? null : true;
      if (kind === 2) return text();
      if (kind === 3) return Array.from({ length: size }, () => value(depth + 1));
      return Object.fromEntries(Array.from({ length: size }, () => [text(), value(depth + 1)]));
    };
    for (let run = 0; run < 2_000; run += 1) {
      const array = Array.from({ length: random.below(5) }, () => value(0));
      const space = run % 3;
      expect(
        elementsOf(JSON.stringify(array, null, space)).map((each) => JSON.parse(each)),
      ).toEqual(array);
    }
  });

  test("a tree keeps digits, duplicate keys and order", () => {
    expect(parseJson('{"b":1.10,"a":[true,"\\u00e4"],"b":12345678901234567890}')).toEqual({
      kind: "object",
      members: [
        ["b", { kind: "number", text: "1.10" }],
        [
          "a",
          {
            kind: "array",
            items: [
              { kind: "literal", text: "true" },
              { kind: "string", text: "ä" },
            ],
          },
        ],
        ["b", { kind: "number", text: "12345678901234567890" }],
      ],
    });
    expect(() => parseJson("{")).toThrow(SyntaxError);
  });
});

describe("the log", () => {
  const offsets = (log) => log.rows.map(offsetOf);

  test("knows the offset of each message, also across the end of a segment", () => {
    const log = new Log("json");
    log.take(part("-1", at(0, 2), "[1,2]"));
    log.take(part(at(0, 2), at(1, 1), "[3]"));
    log.take(part(at(1, 1), at(2, 2), "[4,5,6]"));
    expect(offsets(log)).toEqual([at(0, 0), at(0, 1), at(1, 0), at(1, 1), at(2, 0), at(2, 1)]);
    log.take(part(at(2, 2), at(4, 1), "[7,8]"));
    expect(offsets(log).slice(-2)).toEqual([undefined, undefined]);
  });

  test("joins lines and characters that come in pieces", () => {
    const log = new Log("text");
    const [first, second] = encoder.encode("ä");
    log.take(part("-1", at(0, 4), [...encoder.encode("one\nt"), first]));
    log.take(part(at(0, 4), at(0, 9), [second, ...encoder.encode("\n\nend")]));
    expect(log.rows.map(({ text }) => text)).toEqual(["one", "tä", "", "end"]);
  });

  test("fills rows of sixteen bytes", () => {
    const log = new Log("binary");
    log.take(part("-1", at(0, 10), Array(10).fill(1)));
    log.take(part(at(0, 10), at(0, 40), Array(30).fill(2)));
    expect(log.rows.map(({ bytes }) => bytes.length)).toEqual([16, 16, 8]);
    expect([...log.rows[0].bytes]).toEqual([...Array(10).fill(1), ...Array(6).fill(2)]);
    expect(hexOf(Uint8Array.from([0, 65, 255]))).toEqual(["00 41 ff".padEnd(48), "·A·"]);
  });

  test("forgets the oldest rows when there are too many", () => {
    const log = new Log("text");
    log.take(part("-1", at(0, 1), "x\n".repeat(60_000)));
    log.take(part(at(0, 1), at(0, 2), "y\n".repeat(60_000)));
    expect(log.rows.length).toBeLessThanOrEqual(100_000);
    expect(log.count).toBe(120_000);
    expect(log.rows.at(-1).text).toBe("y");
  });

  test("shows content by its type", () => {
    expect(formOf("application/json; charset=utf-8")).toBe("json");
    expect(formOf("text/html")).toBe("text");
    expect(formOf("application/x-ndjson")).toBe("text");
    expect(formOf("image/svg+xml")).toBe("text");
    expect(formOf("application/octet-stream")).toBe("binary");
    expect(formOf("")).toBe("binary");
  });
});

test("names are spelled as in URLs, and read as they were typed", () => {
  for (const [typed, canonical] of [
    ["chat/room 1", "chat/room%201"],
    ["café", "caf%C3%A9"],
    ["a%2Fb", "a%2Fb"],
    ["50%", "50%25"],
    ["a?b#c", "a%3Fb%23c"],
    ["(a)!*'", "(a)!*'"],
  ]) {
    expect(canonicalName(typed)).toBe(canonical);
    expect(canonicalName(readableName(canonical))).toBe(canonical);
  }
  expect(readableName("a%2Fb%C3%A9%25")).toBe("a%2Fbé%25");
  expect(readableName("%FF")).toBe("%FF");
});

test("offsets are read with and without their zeros", () => {
  expect(readOffset(" 1_20 ")).toBe(at(1, 20));
  expect(readOffset(at(1, 20))).toBe(at(1, 20));
  expect(readOffset("now")).toBe("now");
  for (const typed of ["", "1", "1_", "_1", "1_2_3", "a_b", "-2"]) {
    expect(readOffset(typed)).toBeUndefined();
  }
  expect(shortOffset(at(1, 20))).toBe("1_20");
});

test("hexadecimal digits are read in pairs", () => {
  expect([...bytesOf("00 fF\n7a")]).toEqual([0, 255, 122]);
  expect(bytesOf("0")).toBeUndefined();
  expect(bytesOf("0g")).toBeUndefined();
});

test("words of a shell are quoted when they must be", () => {
  expect(shellWord("http://h/v1/stream/a")).toBe("http://h/v1/stream/a");
  expect(shellWord("it's $HOME")).toBe(`'it'\\''s $HOME'`);
});

test("a path names a page, and a stream's name is the rest of it", () => {
  expect(placeOf("/admin")).toEqual({ page: "overview" });
  expect(placeOf("/admin/")).toEqual({ page: "overview" });
  expect(placeOf("/admin/streams/")).toEqual({ page: "streams" });
  expect(placeOf("/admin/streams/a/b%2Fc")).toEqual({ page: "stream", name: "a/b%2Fc" });
  expect(placeOf("/admin/subscriptions")).toEqual({ page: "subscriptions" });
  expect(placeOf("/admin/subscriptions/a%2Fb")).toEqual({ page: "subscription", id: "a%2Fb" });
  expect(placeOf("/admin/subscriptions/a/b")).toEqual({ page: "unknown" });
  expect(placeOf("/admin/sessions/")).toEqual({ page: "sessions" });
  expect(placeOf("/admin/sessions/a")).toEqual({ page: "session", id: "a" });
  expect(placeOf("/admin/sessions/a/b")).toEqual({ page: "unknown" });
  expect(placeOf("/admin/else")).toEqual({ page: "unknown" });
});
