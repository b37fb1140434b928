// Icons, drawn in the colour of the text. They are never the only name of a control.

import type { ComponentChildren } from "preact";

function Icon({ children }: { children: ComponentChildren }) {
  return (
    <svg
      class="icon"
      viewBox="0 0 16 16"
      width="16"
      height="16"
      fill="none"
      stroke="currentColor"
      stroke-width="1.5"
      stroke-linecap="round"
      stroke-linejoin="round"
      aria-hidden="true"
      focusable="false"
    >
      {children}
    </svg>
  );
}

const icon = (...paths: string[]) =>
  function Drawn() {
    return (
      <Icon>
        {paths.map((path) => (
          <path key={path} d={path} />
        ))}
      </Icon>
    );
  };

export const Plus = icon("M8 3v10", "M3 8h10");
export const Close = icon("m4 4 8 8", "m12 4-8 8");
export const Trash = icon("M3 4.5h10", "M6.5 4V2.5h3V4", "m4.5 4.5.5 9h6l.5-9");
export const Lock = icon("M4 7.5h8v6H4z", "M5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5");
export const Key = icon("M7 9a3 3 0 1 1 0-.01", "M6.8 8H14", "M12 8v2.5");
export const Fork = icon(
  "M5 4.5a1.5 1.5 0 1 1 0-.01M12.5 4.5a1.5 1.5 0 1 1 0-.01M8.8 13a1.5 1.5 0 1 1 0-.01",
  "M3.5 6v1.5h7.5V6",
  "M7.3 7.5v4",
);
export const Terminal = icon("m3 5 3 3-3 3", "M8 11h5");
export const Archive = icon("M2.5 3h11v3h-11z", "M3.5 6v7h9V6", "M6.5 8.5h3");
export const Pause = icon("M5.5 3.5v9", "M10.5 3.5v9");
export const Play = icon("M5 3.5v9l7-4.5z");
export const Down = icon("M8 3v10", "m4 9 4 4 4-4");
export const ToStart = icon("M3.5 3v10", "m10 4-4 4 4 4");
export const Send = icon("m2.5 8 11-5-4 11-2.5-4.5z", "m7 9.5 6.5-6.5");
export const Menu = icon("M2.5 4.5h11", "M2.5 8h11", "M2.5 11.5h11");
export const Refresh = icon("M13 8a5 5 0 1 1-1.5-3.6", "M13 2.5v3h-3");
export const Overview = icon(
  "M2.5 2.5h5v5h-5z",
  "M9.5 2.5h4v3h-4z",
  "M9.5 8h4v5.5h-4z",
  "M2.5 10h5v3.5h-5z",
);
export const Streams = icon("M2.5 4.5h11", "M2.5 8h8", "M2.5 11.5h5");
export const Subscriptions = icon("M4.5 11V7a3.5 3.5 0 0 1 7 0v4", "M3 11h10", "M7 13.5h2");
export const Sessions = icon("M2.5 4h3l2 4h6", "M2.5 12h3l2-4", "m11 5.5 2.5 2.5-2.5 2.5");
export const Search = icon("M11 7a4 4 0 1 1 0-.01", "m10 10 3.5 3.5");
export const ChevronRight = icon("m6 4 4 4-4 4");
