// JSON as text. Numbers, the order of members and duplicate keys stay as they were sent, which
// `JSON.parse` would change.

export type Json =
  | { kind: "object"; members: [string, Json][] }
  | { kind: "array"; items: Json[] }
  | { kind: "string"; text: string }
  | { kind: "number" | "literal"; text: string };

const quote = 0x22;
const backslash = 0x5c;
const isSpace = (code: number) => code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;

/** Returns the texts of the elements of an array, as they were sent. */
export function elementsOf(array: string): string[] {
  const elements: string[] = [];
  let depth = 0;
  let inString = false;
  let begin = -1;
  const end = (at: number) => {
    const element = begin < 0 ? "" : array.slice(begin, at).trim();
    if (element !== "") elements.push(element);
    begin = at + 1;
  };
  for (let at = 0; at < array.length; at += 1) {
    const code = array.charCodeAt(at);
    if (inString) {
      if (code === backslash) at += 1;
      else if (code === quote) inString = false;
    } else if (code === quote) {
      inString = true;
    } else if (code === 0x5b || code === 0x7b) {
      depth += 1;
      if (depth === 1) begin = at + 1;
    } else if (code === 0x5d || code === 0x7d) {
      depth -= 1;
      if (depth === 0) end(at);
    } else if (code === 0x2c && depth === 1) {
      end(at);
    }
  }
  return elements;
}

/** Parses a JSON text. Throws a `SyntaxError` if the text is malformed. */
export function parseJson(text: string): Json {
  // The parser below reads only what this accepts.
  JSON.parse(text);
  let at = 0;
  const skip = () => {
    while (isSpace(text.charCodeAt(at))) at += 1;
  };
  const string = (): string => {
    const begin = at;
    at += 1;
    while (text.charCodeAt(at) !== quote) at += text.charCodeAt(at) === backslash ? 2 : 1;
    at += 1;
    return JSON.parse(text.slice(begin, at)) as string;
  };
  const value = (): Json => {
    skip();
    const first = text[at];
    if (first === '"') return { kind: "string", text: string() };
    if (first === "{") {
      const members: [string, Json][] = [];
      each("}", () => {
        skip();
        const key = string();
        skip();
        at += 1;
        members.push([key, value()]);
      });
      return { kind: "object", members };
    }
    if (first === "[") {
      const items: Json[] = [];
      each("]", () => items.push(value()));
      return { kind: "array", items };
    }
    const begin = at;
    while (at < text.length && !/[\s,\]}]/.test(text[at] ?? "")) at += 1;
    const token = text.slice(begin, at);
    return { kind: /^[-\d]/.test(token) ? "number" : "literal", text: token };
  };
  const each = (last: string, read: () => void) => {
    at += 1;
    skip();
    while (text[at] !== last) {
      read();
      skip();
      if (text[at] === ",") at += 1;
      skip();
    }
    at += 1;
  };
  return value();
}
