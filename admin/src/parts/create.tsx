// The dialog that creates a stream, also as a fork of another one.

import type { TargetedSubmitEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { act } from "../api";
import { messageOf } from "../http";
import { go } from "../router";
import { streamList } from "../streams/list";
import { canonicalName, readableName, streamPage } from "../streams/names";
import { readOffset } from "../streams/offsets";
import { forgetProducer } from "../streams/producer";
import { Button, Dialog, Field, Problem } from "./controls";
import { toast } from "./toasts";

/** The stream to be forked, and where. */
export interface Source {
  name: string;
  contentType: string;
  offset: string;
}

/** What the dialog begins with. */
interface Asked {
  source?: Source;
  name?: string;
}

const listeners = new Set<(asked: Asked) => void>();

export function openCreateDialog(asked: Asked = {}): void {
  for (const listener of listeners) listener(asked);
}

export function CreateDialog() {
  const [asked, setAsked] = useState<Asked>();
  useEffect(() => {
    listeners.add(setAsked);
    return () => {
      listeners.delete(setAsked);
    };
  }, []);
  if (asked === undefined) return null;
  return <CreateForm {...asked} onClose={() => setAsked(undefined)} />;
}

const contentTypes = ["application/json", "text/plain", "application/octet-stream"];

function CreateForm({ source, name = "", onClose }: Asked & { onClose: () => void }) {
  const [typed, setTyped] = useState(name);
  const [contentType, setContentType] = useState(contentTypes[0] ?? "");
  const [ttl, setTtl] = useState("");
  const [offset, setOffset] = useState(source?.offset ?? "");
  const [problem, setProblem] = useState("");
  const [isRunning, setRunning] = useState(false);

  const create = async () => {
    const name = canonicalName(typed);
    const headers: Record<string, string> = {
      "Content-Type": source?.contentType ?? contentType,
    };
    if (ttl !== "") headers["Stream-TTL"] = ttl;
    if (source !== undefined) {
      headers["Stream-Forked-From"] = `/v1/stream/${source.name}`;
      const from = readOffset(offset);
      if (offset !== "" && from === undefined) {
        throw new Error("The offset has the form segment_position, such as 0_12.");
      }
      if (from !== undefined) headers["Stream-Fork-Offset"] = from;
    }
    const answer = await act(name, "create", headers);
    if (answer.status === 200) {
      toast(`${readableName(name)} exists already, with the same properties.`);
    } else {
      forgetProducer(name);
      streamList.add({
        streamId: name,
        contentType: headers["Content-Type"] ?? "",
        closed: false,
        createdAt: Date.now(),
        expiresAt: null,
        ttlSeconds: ttl === "" ? null : Number(ttl),
        forkedFrom: source?.name ?? null,
      });
    }
    onClose();
    go(streamPage(name));
  };
  const submit = async (event: TargetedSubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    setRunning(true);
    setProblem("");
    try {
      await create();
    } catch (error) {
      setProblem(messageOf(error));
      setRunning(false);
    }
  };

  return (
    <Dialog title={source === undefined ? "New stream" : "Fork"} onClose={onClose}>
      <form onSubmit={submit}>
        <div class="dialog-body">
          {source !== undefined && (
            <p>
              The fork begins with the content of <b>{readableName(source.name)}</b> up to the
              offset. Nothing is copied.
            </p>
          )}
          <Field label="Name" hint="Slashes separate parts, as in chat/room-1.">
            {(id) => (
              <input
                id={id}
                required
                autoFocus
                autocomplete="off"
                spellcheck={false}
                value={typed}
                onInput={(event) => setTyped(event.currentTarget.value)}
              />
            )}
          </Field>
          {source === undefined ? (
            <Field label="Content type" hint="It cannot be changed later.">
              {(id) => (
                <>
                  <input
                    id={id}
                    required
                    list="content-types"
                    autocomplete="off"
                    spellcheck={false}
                    value={contentType}
                    onInput={(event) => setContentType(event.currentTarget.value)}
                  />
                  <datalist id="content-types">
                    {contentTypes.map((each) => (
                      <option key={each} value={each} />
                    ))}
                  </datalist>
                </>
              )}
            </Field>
          ) : (
            <Field label="Offset" hint="Empty: the present tail.">
              {(id) => (
                <input
                  id={id}
                  autocomplete="off"
                  spellcheck={false}
                  value={offset}
                  onInput={(event) => setOffset(event.currentTarget.value)}
                />
              )}
            </Field>
          )}
          <Field
            label="Time to live, in seconds"
            hint="Empty: the stream stays until it is deleted."
          >
            {(id) => (
              <input
                id={id}
                inputMode="numeric"
                pattern="[0-9]*"
                autocomplete="off"
                value={ttl}
                onInput={(event) => setTtl(event.currentTarget.value)}
              />
            )}
          </Field>
        </div>
        <Problem text={problem} />
        <footer>
          <Button onClick={onClose}>Cancel</Button>
          <Button kind="primary" type="submit" disabled={isRunning}>
            {source === undefined ? "Create stream" : "Create fork"}
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
