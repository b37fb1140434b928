// The questions before something is deleted.

import type { ComponentChildren } from "preact";
import { act, actOnSubscription, deleteSession } from "../api";
import { streamList } from "../streams/list";
import { readableName } from "../streams/names";
import { forgetProducer } from "../streams/producer";
import { Confirm } from "./controls";
import { toast } from "./toasts";

interface QuestionProps {
  /** The name of a stream, or the id of a subscription or of a session. */
  name: string;
  onClose: () => void;
  onDeleted?: () => void;
}

interface DeleteProps extends QuestionProps {
  kind: "stream" | "subscription" | "session";
  remove: () => Promise<unknown>;
  /** What goes on from the name, and says what is lost. */
  children: ComponentChildren;
}

function Delete({ name, kind, remove, onClose, onDeleted, children }: DeleteProps) {
  const run = async () => {
    await remove();
    toast(`${readableName(name)} is deleted.`);
    onDeleted?.();
  };
  const action = `Delete ${kind}`;
  return (
    <Confirm title={`${action}?`} action={action} isDangerous run={run} onClose={onClose}>
      <p>
        <b class="breaks">{readableName(name)}</b> {children} This cannot be undone.
      </p>
    </Confirm>
  );
}

export function DeleteStream(props: QuestionProps) {
  const { name } = props;
  const remove = async () => {
    await act(name, "delete");
    forgetProducer(name);
    streamList.remove(name);
  };
  return (
    <Delete {...props} kind="stream" remove={remove}>
      and all of its content are deleted.
    </Delete>
  );
}

export function DeleteSubscription(props: QuestionProps) {
  const remove = () => actOnSubscription(props.name, "delete");
  return (
    <Delete {...props} kind="subscription" remove={remove}>
      and its cursors are deleted. The streams stay.
    </Delete>
  );
}

export function DeleteSession(props: QuestionProps) {
  return (
    <Delete {...props} kind="session" remove={() => deleteSession(props.name)}>
      and its stream are deleted, and its clients get nothing more. The streams that it follows
      stay.
    </Delete>
  );
}
