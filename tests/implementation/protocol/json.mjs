import { expect } from "vitest";
import { Stream } from "../../harness/stream.mjs";
import { expectRefusal } from "./assertions.mjs";

const contentType = "application/json";
const create = (base, options) => Stream.create(base, { contentType, ...options });

// Each is one message, whose bytes must be returned unchanged.
const messages = [
  "12345678901234567890",
  "1.0",
  "-0",
  "1E+2",
  "1e400",
  "0.1000000000000000055511151231257827",
  '{"b":1,"a":2}',
  '{"a":1,"a":2}',
  '{ "a" :\t1 ,\n"b" : [ 1 , 2 ] }',
  '"\\u0041\\/\\u00e9"',
  '"\u00e9\u4e09\ud83d\ude00\u2028"',
  '"\\ud800"',
  '{"":{"__proto__":null,"constructor":1}}',
  '"[1,2],{\\"a\\":\\"]\\"}"',
  '"\\\\"',
  '""',
  "{}",
  "null",
  "true",
  "false",
];

const flattenings = [
  ['{"event":"created"}', ['{"event":"created"}']],
  ['[{"event":"a"},{"event":"b"}]', ['{"event":"a"}', '{"event":"b"}']],
  ["[[1,2],[3,4]]", ["[1,2]", "[3,4]"]],
  ["[[[1,2,3]]]", ["[[1,2,3]]"]],
  ["[[]]", ["[]"]],
  ["[[],[],{}]", ["[]", "[]", "{}"]],
  [' \r\n\t[ 1 ,\t2 , "x" ]\n', ["1", "2", '"x"']],
  [' {"a":[]} \n', ['{"a":[]}']],
];

const invalid = [
  "{",
  "[",
  "[1,",
  "[1,]",
  "[,1]",
  "[1 2]",
  "[1]]",
  "]",
  "[1],[2]",
  "[1]x",
  '{"a":}',
  '{"a" 1}',
  '{"a":1,}',
  "{a:1}",
  "{'a':1}",
  "{1:1}",
  '{"a":1}{"b":2}',
  '{"a":1}\n{"b":2}',
  "{]",
  "[}",
  "nul",
  "nulll",
  "True",
  "NaN",
  "Infinity",
  "undefined",
  "01",
  "-",
  "+1",
  "1.",
  ".5",
  "1e",
  "0x10",
  "1 2",
  "'a'",
  '"a',
  '"\\x"',
  '"\\u12"',
  '"\u0001"',
  '"a\nb"',
  '[1,"a\tb"]',
  '[1,{"a":tru}]',
  " ",
  "\n\n",
  "// comment\n1",
  "[1, /* two */ 2]",
];

const deep = 100_000;
const deepBodies = [
  ["arrays", "[".repeat(deep) + "]".repeat(deep)],
  ["objects", '{"a":'.repeat(deep) + "1" + "}".repeat(deep)],
  ["arrays and objects", '[{"a":'.repeat(deep) + "1" + "}]".repeat(deep)],
];

export const rows = [
  ...messages.map((message) => ({
    section: "9.1.1",
    clause: `${JSON.stringify(message)} keeps its bytes, alone, in a batch and over SSE`,
    async check({ base }) {
      const stream = await create(base);
      expect((await stream.append(message)).status).toBe(204);
      expect((await stream.append(`[${message},${message}]`)).status).toBe(204);
      expect((await stream.get()).text).toBe(`[${message},${message},${message}]`);
      const reader = await stream.events("-1");
      await reader.upToDate();
      // Events do not distinguish the kinds of line ending. All other bytes are equal.
      expect(reader.text.replaceAll("][", ",")).toBe(`[${message},${message},${message}]`);
      reader.close();
    },
  })),
  ...flattenings.flatMap(([body, stored]) => [
    {
      section: "9.1.2",
      clause: `${JSON.stringify(body)} appended is ${stored.length} message(s): ${stored.join(" ")}`,
      async check({ base }) {
        const stream = await create(base);
        expect((await stream.append(body)).status).toBe(204);
        expect((await stream.get()).text).toBe(`[${stored.join(",")}]`);
      },
    },
    {
      section: "9.1.2",
      clause: `${JSON.stringify(body)} as first content is ${stored.length} message(s): ${stored.join(" ")}`,
      async check({ base }) {
        const stream = await create(base, { body });
        expect((await stream.get()).text).toBe(`[${stored.join(",")}]`);
      },
    },
  ]),
  {
    section: "9.1.1",
    clause: "messages of different appends are returned as one array, in order",
    async check({ base }) {
      const stream = await create(base, { body: "1" });
      for (const body of ["[2,3]", '{"four":4}', "[[5]]", '"six"']) await stream.append(body);
      const answer = await stream.get();
      expect(answer.headers["content-type"]).toBe(contentType);
      expect(answer.text).toBe('[1,2,3,{"four":4},[5],"six"]');
    },
  },
  {
    section: "9.1.1",
    clause: "a read from the offset of an append returns the messages after it as an array",
    async check({ base }) {
      const stream = await create(base);
      const first = await stream.append("[1,2,3]");
      await stream.append("4");
      expect((await stream.read(first.offset)).text).toBe("[4]");
    },
  },
  {
    section: "9.1.3",
    clause: "an empty array is refused on POST, with white space too, and closes nothing",
    async check({ base }) {
      const stream = await create(base, { body: "1" });
      for (const body of ["[]", "[ ]", " [\n] "]) {
        expectRefusal(await stream.append(body), 400);
        expectRefusal(await stream.append(body, { "Stream-Closed": "true" }), 400);
      }
      const head = await stream.head();
      expect(head.offset).toBe(stream.start);
      expect(head.closed).toBeUndefined();
    },
  },
  {
    section: "9.1.3",
    clause: "an empty array on PUT creates an empty stream",
    async check({ base }) {
      for (const body of ["[]", " [ ] "]) {
        const stream = await create(base, { body });
        expect((await stream.get()).text).toBe("[]");
      }
    },
  },
  {
    section: "9.1.3",
    clause: "an empty array on PUT with Stream-Closed creates a stream that is empty and closed",
    async check({ base }) {
      const stream = await create(base, { body: "[]", headers: { "Stream-Closed": "true" } });
      const answer = await stream.get();
      expect(answer.text).toBe("[]");
      expect(answer.closed).toBe("true");
    },
  },
  ...invalid.map((body) => ({
    section: "9.1.4",
    clause: `${JSON.stringify(body)} is not a JSON value and is refused`,
    async check({ base }) {
      const stream = await create(base);
      expectRefusal(await stream.append(body), 400);
      expect((await stream.get()).text).toBe("[]");
    },
  })),
  {
    section: "9.1.4",
    clause: "bytes that are not UTF-8 are refused",
    async check({ base }) {
      const stream = await create(base);
      for (const bytes of [
        [0xff],
        [0xc3],
        [0xc0, 0x80],
        [0xed, 0xa0, 0x80],
        [0xf5, 0x80, 0x80, 0x80],
      ]) {
        expectRefusal(await stream.append(Buffer.from([0x22, ...bytes, 0x22])), 400);
      }
      expect((await stream.get()).text).toBe("[]");
    },
  },
  {
    section: "9.1.4",
    clause: "one bad element refuses the whole batch",
    async check({ base }) {
      const stream = await create(base, { body: "0" });
      expectRefusal(await stream.append(`[${Array(500).fill("1").join(",")},tru]`), 400);
      expect((await stream.get()).text).toBe("[0]");
    },
  },
  ...deepBodies.map(([what, body]) => ({
    section: "9.1.4",
    clause: `100,000 nested ${what} are stored or refused, and the stream still works`,
    async check({ base }) {
      const stream = await create(base);
      const answer = await stream.append(body);
      expect([204, 400]).toContain(answer.status);
      expect((await stream.append('{"after":1}')).status).toBe(204);
      const inner = (await stream.pages())
        .map((page) => page.text.slice(1, -1))
        .filter((text) => text !== "");
      const stored = body.startsWith("[") ? body.slice(1, -1) : body;
      const expected = answer.status === 204 ? [stored, '{"after":1}'] : ['{"after":1}'];
      expect(inner.join(",") === expected.join(",")).toBe(true);
    },
  })),
  ...deepBodies.map(([what, body]) => ({
    section: "9.1.4",
    clause: `100,000 ${what} that are never closed are refused`,
    async check({ base }) {
      const stream = await create(base);
      expectRefusal(await stream.append(body.slice(0, body.length / 2)), 400);
      expectRefusal(await stream.append(body.slice(0, -1)), 400);
      expect((await stream.get()).text).toBe("[]");
    },
  })),
  {
    section: "9.1.5",
    clause: "a range without messages is an empty array",
    async check({ base }) {
      const stream = await create(base, { body: "[1,2]" });
      for (const answer of [
        await stream.read(stream.start),
        await stream.read("now"),
        await (await create(base)).get(),
      ]) {
        expect(answer.status).toBe(200);
        expect(answer.headers["content-type"]).toBe(contentType);
        expect(answer.text).toBe("[]");
      }
    },
  },
  ...["application/json; charset=utf-8", "Application/Json", "application/json;x=y"].map(
    (spelling) => ({
      section: "9.1",
      clause: `a stream of ${spelling} is in JSON mode`,
      async check({ base }) {
        const stream = await Stream.create(base, { contentType: spelling, body: "[1,2]" });
        await stream.append("3");
        expectRefusal(await stream.append("{"), 400);
        const answer = await stream.get();
        expect(answer.text).toBe("[1,2,3]");
        expect(answer.headers["content-type"]).toBe(spelling);
      },
    }),
  ),
  ...["application/ndjson", "application/vnd.api+json", "text/json", "application/jsonlines"].map(
    (other) => ({
      section: "9",
      clause: `a stream of ${other} is a stream of bytes`,
      async check({ base }) {
        const stream = await Stream.create(base, { contentType: other, body: "[1,2]" });
        expect((await stream.append("{")).status).toBe(204);
        expect((await stream.get()).text).toBe("[1,2]{");
      },
    }),
  ),
];
