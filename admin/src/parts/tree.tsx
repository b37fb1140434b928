// A JSON value as a tree. Text nodes only: nothing of a stream becomes markup.

import { useState } from "preact/hooks";
import type { Json } from "../streams/json";
import { ChevronRight } from "./icons";

const childrenStep = 100;
const stringShown = 2_000;
/** Objects and arrays down to this depth are open at first, unless they are large. */
const openDepth = 2;
const openChildrenMax = 50;

export function Tree({ json }: { json: Json }) {
  return (
    <ul class="tree">
      <Node name={undefined} json={json} depth={0} />
    </ul>
  );
}

function Node({ name, json, depth }: { name: string | undefined; json: Json; depth: number }) {
  const children: [string, Json][] =
    json.kind === "object"
      ? json.members
      : json.kind === "array"
        ? json.items.map((item, index) => [String(index), item])
        : [];
  const [isOpen, setOpen] = useState(depth < openDepth && children.length <= openChildrenMax);
  const [shown, setShown] = useState(childrenStep);
  const label = name !== undefined && <span class="key">{name}</span>;
  if (json.kind !== "object" && json.kind !== "array") {
    return (
      <li>
        {label}
        <Leaf json={json} />
      </li>
    );
  }
  const isArray = json.kind === "array";
  const noun = isArray ? "items" : "members";
  const [open, close] = isArray ? ["[", "]"] : ["{", "}"];
  return (
    <li>
      {children.length === 0 ? (
        <>
          {label}
          <span class="quiet">{open + close}</span>
        </>
      ) : (
        <button type="button" class="fold" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          <ChevronRight />
          {label}
          <span class="quiet">{isOpen ? open : `${open} ${children.length} ${noun} ${close}`}</span>
        </button>
      )}
      {isOpen && children.length > 0 && (
        <>
          <ul>
            {children.slice(0, shown).map(([key, child], index) => (
              <Node key={index} name={key} json={child} depth={depth + 1} />
            ))}
            {children.length > shown && (
              <li>
                <button type="button" class="link" onClick={() => setShown(shown + childrenStep)}>
                  {children.length - shown} more
                </button>
              </li>
            )}
          </ul>
          <span class="quiet">{close}</span>
        </>
      )}
    </li>
  );
}

function Leaf({ json }: { json: Extract<Json, { text: string }> }) {
  const [isWhole, setWhole] = useState(false);
  if (json.kind !== "string") return <span class={json.kind}>{json.text}</span>;
  const isLong = json.text.length > stringShown && !isWhole;
  return (
    <span class="string">
      {`"${isLong ? json.text.slice(0, stringShown) : json.text}"`}
      {isLong && (
        <button type="button" class="link" onClick={() => setWhole(true)}>
          {json.text.length - stringShown} more characters
        </button>
      )}
    </span>
  );
}
