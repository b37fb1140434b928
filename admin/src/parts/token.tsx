// The dialog that asks for the tokens.

import type { TargetedSubmitEvent } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Audience, hasOwnToken, keepToken, token } from "../http";
import { onAskForToken } from "./ask-for-token";
import { Button, Dialog, Field } from "./controls";

export function TokenDialog() {
  const [audience, setAudience] = useState<Audience>();
  useEffect(() => onAskForToken(setAudience), []);
  if (audience === undefined) return null;
  const close = () => setAudience(undefined);
  return <TokenForm first={audience} onClose={close} />;
}

function TokenForm({ first, onClose }: { first: Audience; onClose: () => void }) {
  const [admin, setAdmin] = useState(token("admin"));
  const [streams, setStreams] = useState(hasOwnToken("streams") ? token("streams") : "");
  const submit = (event: TargetedSubmitEvent<HTMLFormElement>) => {
    event.preventDefault();
    keepToken("streams", streams.trim());
    keepToken("admin", admin.trim());
    onClose();
  };
  return (
    <Dialog title="Tokens" onClose={onClose}>
      <form onSubmit={submit}>
        <div class="dialog-body">
          <p>They stay in this tab, and are forgotten when it is closed.</p>
          <Field label="Admin token" hint="The server's setting ADMIN_TOKEN.">
            {(id) => (
              <input
                id={id}
                type="password"
                autocomplete="off"
                autoFocus={first === "admin"}
                value={admin}
                onInput={(event) => setAdmin(event.currentTarget.value)}
              />
            )}
          </Field>
          <Field
            label="Token for reading streams"
            hint="The setting AUTH_TOKEN, or a signed token. Empty: the admin token is used."
          >
            {(id) => (
              <input
                id={id}
                type="password"
                autocomplete="off"
                autoFocus={first === "streams"}
                value={streams}
                onInput={(event) => setStreams(event.currentTarget.value)}
              />
            )}
          </Field>
        </div>
        <footer>
          <Button
            onClick={() => {
              keepToken("streams", "");
              keepToken("admin", "");
              onClose();
            }}
          >
            Forget both
          </Button>
          <Button kind="primary" type="submit">
            Use
          </Button>
        </footer>
      </form>
    </Dialog>
  );
}
