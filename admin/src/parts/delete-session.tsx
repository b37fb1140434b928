// The question before a session is deleted.

import { deleteSession } from "../api";
import { Confirm } from "./controls";
import { toast } from "./toasts";

interface DeleteSessionProps {
  id: string;
  onClose: () => void;
  onDeleted: () => void;
}

export function DeleteSession({ id, onClose, onDeleted }: DeleteSessionProps) {
  const run = async () => {
    await deleteSession(id);
    toast(`Session ${id} is deleted.`);
    onDeleted();
  };
  return (
    <Confirm
      title="Delete session?"
      action="Delete session"
      isDangerous
      run={run}
      onClose={onClose}
    >
      <p>
        <b class="breaks">{id}</b> and its stream are deleted, and its clients get nothing more. The
        streams that it follows stay. This cannot be undone.
      </p>
    </Confirm>
  );
}
