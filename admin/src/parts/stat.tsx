import type { ComponentChildren } from "preact";

interface StatProps {
  label: string;
  children: ComponentChildren;
  note?: ComponentChildren;
}

/** One figure with its name. Belongs into a `<dl>`. */
export function Stat({ label, children, note }: StatProps) {
  return (
    <div class="stat">
      <dt>{label}</dt>
      <dd>
        <span class="figure">{children}</span>
        {note !== undefined && <span class="note">{note}</span>}
      </dd>
    </div>
  );
}
