// Paging by a cursor in the URL, so that the browser's back button leads to the page before.

import { go } from "../router";
import { Button } from "./controls";

interface PagingProps {
  /** The path of the first page. */
  path: string;
  /** The cursor of this page; `undefined` on the first. */
  after: string | undefined;
  /** The cursor of the next page, if there is one. */
  next: string | undefined;
}

export function Paging({ path, after, next }: PagingProps) {
  if (after === undefined && next === undefined) return null;
  return (
    <nav class="more" aria-label="Pages of the list">
      <Button disabled={after === undefined} onClick={() => go(path)}>
        First page
      </Button>{" "}
      <Button
        disabled={next === undefined}
        onClick={() => go(`${path}?after=${encodeURIComponent(next ?? "")}`)}
      >
        Next page
      </Button>
    </nav>
  );
}
