// The box that appends to a stream. Its appends are numbered, so that a retry is stored once.

import { useState } from "preact/hooks";
import { messageOf, pause } from "../http";
import { appendCommand } from "../streams/curl";
import { bytesOf, type Form } from "../streams/log";
import { presence } from "../streams/presence";
import { producerFor, producerId, type Sending } from "../streams/producer";
import { Button, CommandDialog, Problem } from "./controls";
import { Typing } from "./viewers";
import { Send, Terminal } from "./icons";

const attempts = 4;
const firstPauseMs = 500;

interface SendBoxProps {
  name: string;
  contentType: string;
  form: Form;
  onSent: () => void;
}

const hints: Record<Form, string> = {
  json: "A JSON value. An array is stored as one message for each element.",
  text: "Text, stored as it is.",
  binary: "Bytes as hexadecimal digits, such as 01 ff 7a.",
};

export function SendBox({ name, contentType, form, onSent }: SendBoxProps) {
  const [text, setText] = useState("");
  const [endsLine, setEndsLine] = useState(true);
  const [problem, setProblem] = useState("");
  const [status, setStatus] = useState("");
  const [isSending, setSending] = useState(false);
  /** What may have been stored, and must be sent again before anything else. */
  const [pending, setPending] = useState<Sending>();
  const [isCopying, setCopying] = useState(false);
  const producer = producerFor(name);

  const content = (): Sending => {
    if (form === "binary") {
      const body = bytesOf(text);
      if (body === undefined) throw new Error("These are not pairs of hexadecimal digits.");
      return { body, contentType };
    }
    if (form === "json") JSON.parse(text);
    const line = form === "text" && endsLine ? `${text}\n` : text;
    return { body: new TextEncoder().encode(line), contentType };
  };
  const send = async () => {
    if (isSending || (text === "" && pending === undefined)) return;
    setProblem("");
    let sending: Sending;
    try {
      sending = pending ?? content();
    } catch (error) {
      setProblem(messageOf(error));
      return;
    }
    setSending(true);
    await deliver(sending);
    setSending(false);
  };
  const deliver = async (sending: Sending) => {
    let pauseMs = firstPauseMs;
    for (let attempt = 1; ; attempt += 1) {
      setStatus(attempt === 1 ? "Sending…" : `Sending again (${attempt} of ${attempts})…`);
      const result = await producer.send(sending);
      if (result.kind === "stored") {
        setPending(undefined);
        setText("");
        setStatus(result.isDuplicate ? "Stored before; not stored again." : "Stored.");
        onSent();
        return;
      }
      if (result.kind === "refused") {
        setPending(undefined);
        setStatus("");
        setProblem(result.failure.message);
        return;
      }
      if (attempt === attempts) {
        setPending(sending);
        setStatus("");
        setProblem(`${result.reason} It may be stored. Sending again is safe.`);
        return;
      }
      await pause(pauseMs, new AbortController().signal);
      pauseMs *= 2;
    }
  };
  return (
    <div class="send">
      <div class="send-row">
        <textarea
          aria-label="Message to append"
          aria-describedby="send-hint"
          placeholder={
            form === "json" ? '{"text": "hello"}' : form === "binary" ? "01 ff 7a" : "hello"
          }
          rows={2}
          spellcheck={false}
          value={text}
          readOnly={isSending || pending !== undefined}
          onInput={(event) => {
            setText(event.currentTarget.value);
            presence.typing();
          }}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            send();
          }}
        />
        <div class="send-actions">
          <Button kind="primary" disabled={isSending} onClick={send}>
            <Send /> {pending === undefined ? "Append" : "Send again"}
          </Button>
          <Button kind="plain" label="Copy this append as curl" onClick={() => setCopying(true)}>
            <Terminal />
          </Button>
        </div>
      </div>
      <Problem text={problem} />
      <p class="hint" id="send-hint">
        <span>{hints[form]}</span>
        <span>
          <kbd>Enter</kbd> appends, <kbd>Shift</kbd> <kbd>Enter</kbd> begins a line.
        </span>
        {form === "text" && (
          <label>
            <input
              type="checkbox"
              checked={endsLine}
              onChange={(event) => setEndsLine(event.currentTarget.checked)}
            />{" "}
            end with a line break
          </label>
        )}
        <span class="producer">
          producer <code>{producerId}</code>, epoch {producer.epoch}, next number {producer.seq}
        </span>
        <span role="status">
          {status} <Typing name={name} />
        </span>
      </p>
      {isCopying && (
        <CommandDialog
          commands={[
            {
              label: "Append with the same number",
              text: appendCommand(name, producer.headers(contentType), text, form === "binary"),
            },
          ]}
          onClose={() => setCopying(false)}
        />
      )}
    </div>
  );
}
