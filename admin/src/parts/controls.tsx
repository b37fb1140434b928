// Small parts that every page uses.

import type { ButtonHTMLAttributes, ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import type { Query } from "../hooks";
import { type Failure, messageOf } from "../http";
import { askForToken } from "./ask-for-token";
import { Close, Refresh } from "./icons";

type Tone = "good" | "bad" | "warn" | "quiet" | "accent";

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}>{children}</span>;
}

interface ButtonProps extends Omit<ButtonHTMLAttributes, "label"> {
  kind?: "primary" | "danger" | "plain";
  label?: string;
  children: ComponentChildren;
}

/** A button. One with nothing but an icon needs a label. */
export function Button({ kind, label, type = "button", children, ...rest }: ButtonProps) {
  return (
    <button type={type} class={`button ${kind ?? ""}`} aria-label={label} title={label} {...rest}>
      {children}
    </button>
  );
}

/** The server's reason for a failure, with what helps against it. */
export function FailureNotice({ failure, retry }: { failure: Failure; retry?: () => void }) {
  return (
    <div class="notice bad" role="alert">
      <div>
        <strong>{titleOf(failure)}</strong>
        <p>{failure.message}</p>
      </div>
      {failure.needsToken ? (
        <Button kind="primary" onClick={() => askForToken(failure.audience)}>
          Enter token
        </Button>
      ) : (
        retry !== undefined && (
          <Button onClick={retry}>
            <Refresh /> Try again
          </Button>
        )
      )}
    </div>
  );
}

interface QueryStateProps {
  query: Query<unknown>;
  /** What is shown instead of the failure. */
  children?: ComponentChildren;
}

/** Says that a query has failed, or has not loaded anything yet. */
export function QueryState({ query: { value, failure, reload }, children }: QueryStateProps) {
  if (failure !== undefined) return children || <FailureNotice failure={failure} retry={reload} />;
  return value === undefined ? <p class="hint">Loading…</p> : null;
}

function titleOf({ status, audience }: Failure): string {
  if (status === 0) return "No connection";
  if (status === 401) {
    return audience === "admin" ? "The admin API needs a token" : "Reading streams needs a token";
  }
  if (status === 403) return "Not allowed";
  if (status === 404) return "Not found";
  if (status === 410) return "Gone";
  if (status === 503) return "Not available";
  return `Failed with status ${status}`;
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <strong>{title}</strong>
      {children}
    </div>
  );
}

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

/** A modal dialog. Escape and a click beside it close it. */
export function Dialog({ title, onClose, children }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const heading = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby={heading}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onMouseDown={(event) => {
        if (event.target === dialog.current) onClose();
      }}
    >
      <div class="dialog">
        <header>
          <h2 id={heading}>{title}</h2>
          <Button kind="plain" label="Close dialog" onClick={onClose}>
            <Close />
          </Button>
        </header>
        {children}
      </div>
    </dialog>
  );
}

interface ConfirmProps {
  title: string;
  action: string;
  isDangerous?: boolean;
  run: () => Promise<void>;
  onClose: () => void;
  children: ComponentChildren;
}

/** Asks before an action, carries it out, and shows why it failed. */
export function Confirm({ title, action, isDangerous, run, onClose, children }: ConfirmProps) {
  const [problem, setProblem] = useState("");
  const [isRunning, setRunning] = useState(false);
  const confirm = async () => {
    setRunning(true);
    setProblem("");
    try {
      await run();
      onClose();
    } catch (error) {
      setProblem(messageOf(error));
      setRunning(false);
    }
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <div class="dialog-body">{children}</div>
      <Problem text={problem} />
      <footer>
        <Button onClick={onClose}>Cancel</Button>
        <Button kind={isDangerous ? "danger" : "primary"} disabled={isRunning} onClick={confirm}>
          {action}
        </Button>
      </footer>
    </Dialog>
  );
}

export function Problem({ text }: { text: string }) {
  return text === "" ? null : (
    <p class="problem" role="alert">
      {text}
    </p>
  );
}

interface FieldProps {
  label: string;
  hint?: ComponentChildren;
  children: (id: string) => ComponentChildren;
}

export function Field({ label, hint, children }: FieldProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children(id)}
      {hint !== undefined && <p class="hint">{hint}</p>}
    </div>
  );
}

/** Shows a command, and copies it where the browser allows that. */
export function CommandDialog({
  commands,
  onClose,
}: {
  commands: { label: string; text: string }[];
  onClose: () => void;
}) {
  return (
    <Dialog title="Copy as curl" onClose={onClose}>
      <div class="dialog-body">
        {commands.map(({ label, text }) => (
          <Command key={label} label={label} text={text} />
        ))}
      </div>
    </Dialog>
  );
}

function Command({ label, text }: { label: string; text: string }) {
  const [copied, setCopied] = useState("");
  const code = useRef<HTMLPreElement>(null);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied("Copied");
    } catch {
      // Only pages of a secure origin may write to the clipboard.
      if (code.current !== null) getSelection()?.selectAllChildren(code.current);
      setCopied("Selected: press Ctrl+C");
    }
  };
  return (
    <section class="command">
      <header>
        <h3>{label}</h3>
        <span role="status">{copied}</span>
        <Button onClick={copy} label={`Copy: ${label}`}>
          Copy
        </Button>
      </header>
      <pre ref={code} tabIndex={0} aria-label={label}>
        {text}
      </pre>
    </section>
  );
}
