import { expect } from "vitest";
import { exchange, request } from "../../harness/http.mjs";
import { freshName, Stream } from "../../harness/stream.mjs";
import { expectAbsent, expectRefusal, expectRefusalIn, expectText } from "./assertions.mjs";

const exposed = [
  "Stream-Next-Offset",
  "Stream-Cursor",
  "Stream-Up-To-Date",
  "Stream-Closed",
  "ETag",
  "Location",
  "Producer-Epoch",
  "Producer-Seq",
  "Producer-Expected-Seq",
  "Producer-Received-Seq",
  "Stream-SSE-Data-Encoding",
  "Stream-TTL",
  "Stream-Expires-At",
  "Retry-After",
  "Allow",
  "WWW-Authenticate",
  "Server-Timing",
  "X-Cache",
];

const allowedHeaders = [
  "Content-Type",
  "Authorization",
  "If-None-Match",
  "Stream-Seq",
  "Stream-TTL",
  "Stream-Expires-At",
  "Stream-Closed",
  "Stream-Forked-From",
  "Stream-Fork-Offset",
  "Stream-Fork-Sub-Offset",
  "Producer-Id",
  "Producer-Epoch",
  "Producer-Seq",
  "Cache-Control",
  "Last-Event-ID",
  "Pragma",
  "Idempotency-Key",
  "traceparent",
  "tracestate",
  "baggage",
  "X-Requested-With",
  "If-Match",
  "Stream-Expected-Offset",
  "X-Debug-Timing",
];

// Headers that scripts can read without permission
// (https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name), and headers for the
// browser or the connection alone.
const notForScripts = new RegExp(
  `^(${[
    "cache-control",
    "content-(language|length|type)",
    "expires",
    "last-modified",
    "pragma",
    "access-control-.*",
    "cross-origin-resource-policy",
    "content-security-policy",
    "x-content-type-options",
    "x-accel-buffering",
    "vary",
    "connection",
    "keep-alive",
    "transfer-encoding",
  ].join("|")})$`,
);

const methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"];

const listed = (value) =>
  (value ?? "")
    .split(",")
    .map((name) => name.trim().toLowerCase())
    .filter(Boolean);

// Every page names its origin when it appends. Only then does the answer have CORS headers.
const page = { Origin: "https://a.example" };

// One answer of every kind.
const kinds = [
  ["PUT 201", 201, (base) => new Stream(base).put()],
  ["PUT 200", 200, async (base) => (await Stream.create(base)).put()],
  [
    "PUT 409",
    409,
    async (base) => (await Stream.create(base)).put({ headers: { "Stream-TTL": "5" } }),
  ],
  ["PUT 400", 400, (base) => new Stream(base).put({ headers: { "Stream-TTL": "x" } })],
  ["POST 204", 204, async (base) => (await Stream.create(base)).append("a", page)],
  [
    "POST 200",
    200,
    async (base) =>
      (await Stream.create(base)).append("a", {
        ...page,
        "Producer-Id": "p",
        "Producer-Epoch": "0",
        "Producer-Seq": "0",
      }),
  ],
  ["POST 400", 400, async (base) => (await Stream.create(base)).append("", page)],
  [
    "POST 403",
    403,
    async (base) => {
      const stream = await Stream.create(base);
      const stamp = { ...page, "Producer-Id": "p", "Producer-Epoch": "1", "Producer-Seq": "0" };
      await stream.append("a", stamp);
      return stream.append("a", { ...stamp, "Producer-Epoch": "0" });
    },
  ],
  ["POST 404", 404, (base) => new Stream(base).append("a", page)],
  [
    "POST 409",
    409,
    async (base) =>
      (await Stream.create(base, { headers: { "Stream-Closed": "true" } })).append("a", page),
  ],
  ["GET 200", 200, async (base) => (await Stream.create(base, { body: "a" })).get()],
  ["GET 200 at the tail", 200, async (base) => (await Stream.create(base)).get()],
  ["GET 200 from now", 200, async (base) => (await Stream.create(base)).read("now")],
  [
    "GET 304",
    304,
    async (base) => (await Stream.create(base, { body: "a" })).get("", { "If-None-Match": "*" }),
  ],
  ["GET 400", 400, async (base) => (await Stream.create(base)).read("x")],
  ["GET 404", 404, (base) => new Stream(base).get()],
  ["long-poll 200", 200, async (base) => (await Stream.create(base, { body: "a" })).longPoll("-1")],
  [
    "long-poll 204",
    204,
    async (base) =>
      (await Stream.create(base, { headers: { "Stream-Closed": "true" } })).longPoll("-1"),
  ],
  ["long-poll 400", 400, async (base) => (await Stream.create(base)).get("?live=long-poll")],
  [
    "SSE 200",
    200,
    async (base) => {
      const reader = await (await Stream.create(base, { body: "a" })).events("-1");
      reader.close();
      return reader;
    },
  ],
  ["SSE 404", 404, (base) => new Stream(base).events("-1")],
  ["HEAD 200", 200, async (base) => (await Stream.create(base)).head()],
  ["HEAD 404", 404, (base) => new Stream(base).head()],
  ["DELETE 204", 204, async (base) => (await Stream.create(base)).delete()],
  ["DELETE 404", 404, (base) => new Stream(base).delete()],
  ["OPTIONS 204", 204, async (base) => (await Stream.create(base)).request("OPTIONS")],
  ["PATCH 405", 405, async (base) => (await Stream.create(base)).request("PATCH", { body: "a" })],
  ["a path outside of the stream root", 404, (base) => request(base, "/nowhere")],
  ["a reserved name", 404, (base) => request(base, "/v1/stream/__ds/anything")],
  ["a name too long", 414, (base) => request(base, `/v1/stream/${"x".repeat(1025)}`)],
  ["a bad escape", 400, (base) => request(base, "/v1/stream/%zz")],
];

async function expectSame(base, one, other) {
  const [first, second] = [new Stream(base, one), new Stream(base, other)];
  expect((await first.put({ body: "same" })).status).toBe(201);
  expect((await second.get()).text).toBe("same");
  expect((await second.put()).status).toBe(200);
}

async function expectDifferent(base, one, other) {
  const [first, second] = [new Stream(base, one), new Stream(base, other)];
  expect((await first.put({ body: "first" })).status).toBe(201);
  await expectAbsent(second);
  expect((await second.put({ body: "second" })).status).toBe(201);
  await expectText(first, "first");
  await expectText(second, "second");
}

const bodyless = [
  ["HEAD 200", (path) => `HEAD ${path} HTTP/1.1`, "200"],
  ["HEAD 404", (path) => `HEAD ${path}-unknown HTTP/1.1`, "404"],
  ["GET 304", (path) => `GET ${path} HTTP/1.1\r\nIf-None-Match: *`, "304"],
  ["long-poll 204", (path) => `GET ${path}?offset=now&live=long-poll HTTP/1.1`, "204"],
  ["OPTIONS 204", (path) => `OPTIONS ${path} HTTP/1.1`, "204"],
  [
    "POST 204",
    (path) => `POST ${path} HTTP/1.1\r\nStream-Closed: true\r\nContent-Length: 0`,
    "204",
  ],
  ["DELETE 204", (path) => `DELETE ${path} HTTP/1.1`, "204"],
];

export const rows = [
  ...kinds.flatMap(([what, status, ask]) => [
    {
      section: "12.7",
      clause: `${what} forbids sniffing and allows embedding from other origins`,
      async check({ base }) {
        const answer = await ask(base);
        expect(answer.status).toBe(status);
        expect(answer.headers["x-content-type-options"]).toBe("nosniff");
        expect(answer.headers["cross-origin-resource-policy"]).toBe("cross-origin");
        expect(answer.headers["content-security-policy"]).toBe("sandbox; default-src 'none'");
      },
    },
    {
      section: "10",
      clause: `${what} says explicitly whether it may be cached`,
      async check({ base }) {
        const answer = await ask(base);
        const cacheControl = answer.headers["cache-control"];
        expect(cacheControl).toBeDefined();
        if (
          status >= 400 ||
          (!what.startsWith("GET") && !what.startsWith("long-poll 200") && !what.startsWith("SSE"))
        )
          expect(cacheControl).toMatch(/\bno-store\b/);
      },
    },
    {
      section: "12.7",
      clause: `${what} can be read by scripts of any origin, with every header of the protocol`,
      async check({ base }) {
        const answer = await ask(base);
        expect(answer.headers["access-control-allow-origin"]).toBe("*");
        const names = listed(answer.headers["access-control-expose-headers"]);
        for (const name of exposed) expect(names, name).toContain(name.toLowerCase());
        for (const name of Object.keys(answer.headers))
          if (!notForScripts.test(name)) expect(names, name).toContain(name);
      },
    },
    ...(status >= 400 && !what.startsWith("HEAD")
      ? [
          {
            section: "5",
            clause: `${what} is an error in the common form`,
            async check({ base }) {
              expectRefusal(await ask(base), status);
            },
          },
        ]
      : []),
  ]),
  {
    section: "12.7",
    clause: "a preflight is answered 204 with all methods and request headers, for any stream",
    async check({ base }) {
      for (const stream of [await Stream.create(base), new Stream(base)]) {
        for (const method of methods) {
          const answer = await stream.request("OPTIONS", {
            headers: {
              Origin: "https://example.com",
              "Access-Control-Request-Method": method,
              "Access-Control-Request-Headers": "producer-id, if-none-match",
            },
          });
          expect(answer.status).toBe(204);
          expect(answer.body.length).toBe(0);
          expect(answer.headers["access-control-allow-origin"]).toBe("*");
          expect(listed(answer.headers["access-control-allow-methods"])).toEqual(
            expect.arrayContaining(methods.map((name) => name.toLowerCase())),
          );
          const names = listed(answer.headers["access-control-allow-headers"]);
          for (const name of allowedHeaders) expect(names, name).toContain(name.toLowerCase());
        }
      }
    },
  },
  ...["PATCH", "TRACE", "PROPFIND", "SEARCH"].map((method) => ({
    section: "5",
    clause: `${method} answers 405 with the methods that are allowed`,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "a" });
      const answer = await stream.request(method);
      expectRefusal(answer, 405);
      expect(listed(answer.headers.allow).sort()).toEqual(
        methods.map((name) => name.toLowerCase()).sort(),
      );
    },
  })),
  ...bodyless.map(([what, head, status]) => ({
    section: "5",
    clause: `nothing follows the header of ${what} on the wire`,
    async check({ base }) {
      const stream = await Stream.create(base, { body: "abc" });
      const bytes = (
        await exchange(base, `${head(stream.path)}\r\nHost: localhost\r\nConnection: close\r\n\r\n`)
      ).toString("latin1");
      const [header, ...rest] = bytes.split("\r\n\r\n");
      expect(header.split(" ")[1]).toBe(status);
      expect(rest.join("\r\n\r\n")).toBe("");
    },
  })),
  {
    section: "5.1",
    clause: "Location is the stream's absolute URL on the origin of the request",
    async check({ base }) {
      const name = freshName();
      const answer = await request(base, `/v1/stream/${name}/child?x=1`, {
        method: "PUT",
        headers: { Host: "streams.example:1234" },
      });
      expect(answer.status).toBe(201);
      const location = new URL(answer.headers.location);
      expect(location.host).toBe("streams.example:1234");
      expect(location.pathname).toBe(`/v1/stream/${name}/child`);
      expect(location.search).toBe("");
    },
  },
  {
    section: "3",
    clause: "a name may hold slashes, and each level is a separate stream",
    async check({ base }) {
      const name = freshName();
      await expectDifferent(base, `${name}/a`, `${name}/a/b`);
      await expectAbsent(new Stream(base, name));
    },
  },
  {
    section: "3",
    clause: "an escaped slash is not a slash",
    async check({ base }) {
      const name = freshName();
      await expectDifferent(base, `${name}/a/b`, `${name}/a%2Fb`);
    },
  },
  {
    section: "3",
    clause: "an escaped percent sign is not the beginning of an escape",
    async check({ base }) {
      const name = freshName();
      await expectDifferent(base, `${name}/a%2Fb`, `${name}/a%252Fb`);
    },
  },
  {
    section: "3",
    clause: "an escaped letter, digit, tilde, dash or dot is that character",
    async check({ base }) {
      const name = freshName();
      await expectSame(base, `${name}-a1~-._z`, `${name}-%61%31%7E%2D%2E%5F%7a`);
    },
  },
  {
    section: "3",
    clause: "the case of the digits of an escape does not matter",
    async check({ base }) {
      const name = freshName();
      await expectSame(base, `${name}/caf%C3%A9%2F`, `${name}/caf%c3%a9%2f`);
    },
  },
  {
    section: "3",
    clause: "a delimiter of RFC 3986 is not the same as its escape",
    async check({ base }) {
      const name = freshName();
      await expectDifferent(base, `${name}/a(b)`, `${name}/a%28b%29`);
      for (const delimiter of ["!", "$", "&", "'", "*", "+", ",", ";", "=", ":", "@"]) {
        const escaped = `%${delimiter.charCodeAt(0).toString(16).toUpperCase()}`;
        await expectDifferent(base, `${name}/c${delimiter}`, `${name}/c${escaped}`);
      }
    },
  },
  {
    section: "3",
    clause: "names differ by case, by a slash at the end and by an empty segment",
    async check({ base }) {
      const name = freshName();
      await expectDifferent(base, `${name}/a`, `${name}/A`);
      await expectDifferent(base, `${name}/b`, `${name}/b/`);
      await expectDifferent(base, `${name}/c/d`, `${name}/c//d`);
    },
  },
  {
    section: "3",
    clause: "an escaped question mark belongs to the name",
    async check({ base }) {
      const stream = new Stream(base, `${freshName()}%3Foffset=now`);
      expect((await stream.put({ body: "abc" })).status).toBe(201);
      expect((await stream.get()).text).toBe("abc");
    },
  },
  ...["%", "%2", "%zz", "a%", "a%2", "a%G0/b", "%u0041", "%FF", "a%C3/b", "%ED%A0%80"].map(
    (name) => ({
      section: "12.2",
      clause: `${name} is not escaped text and is refused`,
      async check({ base }) {
        for (const method of ["PUT", "POST", "GET", "DELETE"]) {
          expectRefusal(
            await request(base, `/v1/stream/${name}`, {
              method,
              headers: { "Content-Type": "text/plain" },
              body: method === "POST" ? "a" : undefined,
            }),
            400,
          );
        }
      },
    }),
  ),
  {
    section: "12.2",
    clause: "a name of 1,024 bytes is accepted, and one of 1,025 bytes is refused with 414",
    async check({ base }) {
      const name = freshName().padEnd(1024, "x");
      const stream = new Stream(base, name);
      expect((await stream.put({ body: "abc" })).status).toBe(201);
      await expectText(stream, "abc");
      const longer = new Stream(base, `${name}x`);
      for (const answer of [
        await longer.put(),
        await longer.append("a"),
        await longer.get(),
        await longer.delete(),
      ])
        expectRefusal(answer, 414);
      expect((await longer.head()).status).toBe(414);
    },
  },
  {
    section: "12.2",
    clause: "an empty name is not a stream",
    async check({ base }) {
      for (const path of ["/v1/stream/", "/v1/stream"]) {
        expectRefusalIn(
          await request(base, path, { method: "PUT", headers: { "Content-Type": "text/plain" } }),
          [400, 404, 405],
        );
        expectRefusalIn(await request(base, path), [400, 404]);
      }
    },
  },
  {
    section: "12.2",
    clause: "segments of dots, plain or escaped, do not leave the stream root",
    async check({ base }) {
      for (const path of [
        "/v1/stream/a/../../x",
        "/v1/stream/%2e%2e/x",
        "/v1/stream/a/%2E%2e/.%2e/x",
        "/v1/stream/../../admin",
      ]) {
        expectRefusalIn(
          await request(base, path, { method: "PUT", headers: { "Content-Type": "text/plain" } }),
          [400, 404, 405],
        );
      }
    },
  },
  ...["__ds", "__ds/", "__ds/subscriptions", "__ds/anything", "%5F%5Fds/x", "__%64s/x"].map(
    (name) => ({
      section: "6",
      clause: `${name} is reserved and never a stream`,
      async check({ base }) {
        const stream = new Stream(base, name);
        const answers = [
          await stream.put({ body: "a" }),
          await stream.append("a"),
          await stream.get(),
          await stream.delete(),
        ];
        for (const answer of answers) expectRefusal(answer, 404);
        expect((await stream.head()).status).toBe(404);
      },
    }),
  ),
  {
    section: "6",
    clause: "only a first segment that is exactly __ds is reserved",
    async check({ base }) {
      const name = freshName();
      for (const free of [
        `${name}/__ds`,
        `${name}/__ds/x`,
        `__ds-${name}`,
        `__DS/${name}`,
        `_ds/${name}`,
      ]) {
        expect((await new Stream(base, free).put()).status, free).toBe(201);
      }
    },
  },
  ...["__registry__", "%5f%5fregistry__"].map((name) => ({
    section: "6",
    clause: `no client can write to the registry (${name})`,
    async check({ base }) {
      const stream = new Stream(base, name, "application/json");
      for (const answer of [
        await stream.put(),
        await stream.append("{}"),
        await stream.close(),
        await stream.delete(),
      ])
        expectRefusal(answer, 403);
    },
  })),
];
