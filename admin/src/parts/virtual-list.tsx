// A list of rows of one height, of which only those near the visible ones are in the document.

import type { ComponentChildren, JSX, TargetedKeyboardEvent } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

export const rowHeight = 26;
/** Rows beyond the visible ones, so that scrolling shows no gap. */
const overscan = 12;
/** Two positions that differ by less count as the same, because of rounded pixels. */
const slack = 4;

interface VirtualListProps {
  label: string;
  /** How many rows there are. */
  count: number;
  /** How many rows before these were removed. Rows keep their place on the screen. */
  removed: number;
  row: (index: number) => ComponentChildren;
  rowKey: (index: number) => string | number;
  rowLabel?: (index: number) => string;
  selected: number | undefined;
  select: (index: number) => void;
  /** Whether the list stays at its end when rows come. */
  sticks: boolean;
  /** Called when the user scrolls away from the end, or back to it. */
  onEnd: (isAtEnd: boolean) => void;
  /** Called with the last row that is needed. */
  onShown: (last: number) => void;
}

export function VirtualList(props: VirtualListProps) {
  const { label, count, removed, row, rowKey, selected, select, sticks } = props;
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const removedBefore = useRef(removed);
  const expectedTop = useRef(0);

  const read = () => {
    const element = box.current;
    if (element === null) return;
    setView({ top: element.scrollTop, height: element.clientHeight });
  };
  const scrollTo = (top: number) => {
    const element = box.current;
    if (element === null) return;
    element.scrollTop = top;
    expectedTop.current = element.scrollTop;
    read();
  };

  useLayoutEffect(() => {
    const element = box.current;
    if (element === null) return;
    const gone = removed - removedBefore.current;
    removedBefore.current = removed;
    if (sticks) scrollTo(element.scrollHeight);
    else if (gone > 0) scrollTo(Math.max(0, element.scrollTop - gone * rowHeight));
  }, [count, removed, sticks]);

  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const resize = new ResizeObserver(() => {
      if (propsNow.current.sticks) scrollTo(element.scrollHeight);
      read();
    });
    resize.observe(element);
    read();
    return () => resize.disconnect();
  }, []);
  const propsNow = useRef(props);
  propsNow.current = props;

  const first = Math.max(0, Math.floor(view.top / rowHeight) - overscan);
  const last = Math.min(count, Math.ceil((view.top + view.height) / rowHeight) + overscan);
  useEffect(() => props.onShown(last), [last, count]);

  const onScroll = () => {
    const element = box.current;
    if (element === null) return;
    read();
    // What this list has scrolled itself says nothing about the user.
    if (Math.abs(element.scrollTop - expectedTop.current) < slack) return;
    expectedTop.current = element.scrollTop;
    const below = element.scrollHeight - element.clientHeight - element.scrollTop;
    props.onEnd(below < rowHeight);
  };

  const move = (to: number) => {
    const element = box.current;
    if (element === null || count === 0) return;
    const index = Math.max(0, Math.min(count - 1, to));
    select(index);
    const top = index * rowHeight;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + rowHeight > element.scrollTop + element.clientHeight) {
      element.scrollTop = top + rowHeight - element.clientHeight;
    }
  };
  const onKeyDown = (event: TargetedKeyboardEvent<HTMLDivElement>) => {
    const pageRows = Math.max(1, Math.floor(view.height / rowHeight) - 1);
    const from = selected ?? first - 1;
    const targets: Record<string, number> = {
      ArrowDown: from + 1,
      ArrowUp: selected === undefined ? count - 1 : from - 1,
      PageDown: from + pageRows,
      PageUp: from - pageRows,
      Home: 0,
      End: count - 1,
    };
    const target = targets[event.key];
    if (target === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(target);
  };

  const rows: JSX.Element[] = [];
  for (let index = first; index < last; index += 1) {
    rows.push(
      <div
        key={rowKey(index)}
        id={`row-${rowKey(index)}`}
        class="row"
        role="option"
        aria-selected={index === selected}
        aria-setsize={count}
        aria-posinset={index + 1}
        style={{ transform: `translateY(${index * rowHeight}px)` }}
        onClick={() => select(index)}
      >
        {row(index)}
      </div>,
    );
  }
  const isSelectedShown = selected !== undefined && selected >= first && selected < last;
  return (
    <div
      ref={box}
      class="virtual"
      role="listbox"
      aria-label={label}
      tabIndex={0}
      aria-activedescendant={isSelectedShown ? `row-${rowKey(selected)}` : undefined}
      onScroll={onScroll}
      onKeyDown={onKeyDown}
    >
      <div role="presentation" style={{ height: `${count * rowHeight}px` }}>
        {rows}
      </div>
    </div>
  );
}
