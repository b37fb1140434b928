// Messages per minute of the last hour.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Throughput } from "../api";
import { clock, count, shortCount } from "../format";

const height = 64;

export function Sparkline({ throughput }: { throughput: Throughput }) {
  const box = useRef<HTMLDivElement>(null);
  const tip = useRef<HTMLSpanElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const { buckets, avgMessagesPerMinute } = throughput;
  const data: uPlot.AlignedData = [
    buckets.map(({ timestamp }) => timestamp / 1000),
    buckets.map(({ messages }) => messages),
  ];
  const latest = useRef(buckets);
  latest.current = buckets;

  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(
        options(element, (index) => say(index)),
        data,
        element,
      );
    };
    const say = (index: number | null | undefined) => {
      const bucket = index == null ? undefined : latest.current[index];
      if (tip.current === null) return;
      tip.current.textContent =
        bucket === undefined
          ? ""
          : `${clock(bucket.timestamp)}  ${count(bucket.messages)} messages`;
    };
    make();
    const resize = new ResizeObserver(() =>
      plot.current?.setSize({ width: element.clientWidth, height }),
    );
    resize.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make);
    return () => {
      resize.disconnect();
      scheme.removeEventListener("change", make);
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, []);

  useEffect(() => {
    plot.current?.setData(data);
  }, [throughput]);

  const current = buckets.at(-1)?.messages ?? 0;
  const total = buckets.reduce((sum, { messages }) => sum + messages, 0);
  return (
    <figure class="sparkline">
      <figcaption>
        <span class="title">Messages per minute, last hour</span>
        <span class="tip" ref={tip} />
        <span>
          average <b>{average(avgMessagesPerMinute)}</b>
        </span>
        <span>
          this minute <b>{shortCount(current)}</b>
        </span>
      </figcaption>
      <div
        ref={box}
        class="plot"
        role="img"
        aria-label={`${count(total)} messages in the last ${buckets.length} minutes`}
      />
    </figure>
  );
}

function average(perMinute: number): string {
  return perMinute < 10
    ? String(Math.round(perMinute * 10) / 10)
    : shortCount(Math.round(perMinute));
}

function options(element: HTMLElement, say: (index: number | null | undefined) => void) {
  const style = getComputedStyle(element);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis = { stroke: colour("--quiet"), ticks: { show: false }, font: "11px system-ui" };
  const bars = uPlot.paths.bars?.({ size: [0.7, 12], radius: 0.15 });
  return {
    width: element.clientWidth,
    height,
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: {
      // Half a minute at both ends, so that the first and the last bar are whole.
      x: {
        range: (_: uPlot, min: number, max: number) => [min - 30, max + 30] as [number, number],
      },
      y: {
        range: (_: uPlot, __: number, max: number) => [0, Math.max(max, 1)] as [number, number],
      },
    },
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: 20,
        values: (_: uPlot, seconds: number[]) => seconds.map((each) => clock(each * 1000)),
      },
      { show: false },
    ],
    series: [
      {},
      {
        fill: colour("--accent-fill"),
        stroke: colour("--accent-fill"),
        width: 0,
        points: { show: false },
        ...(bars === undefined ? {} : { paths: bars }),
      },
    ],
    hooks: { setCursor: [(plot: uPlot) => say(plot.cursor.idx)] },
  } satisfies uPlot.Options;
}
