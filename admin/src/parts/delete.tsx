// The question before a stream is deleted.

import { act } from "../api";
import { streamList } from "../streams/list";
import { readableName } from "../streams/names";
import { forgetProducer } from "../streams/producer";
import { Confirm } from "./controls";
import { toast } from "./toasts";

interface DeleteDialogProps {
  name: string;
  onClose: () => void;
  onDeleted?: () => void;
}

export function DeleteDialog({ name, onClose, onDeleted }: DeleteDialogProps) {
  const run = async () => {
    await act(name, "delete");
    forgetProducer(name);
    streamList.remove(name);
    toast(`${readableName(name)} is deleted.`);
    onDeleted?.();
  };
  return (
    <Confirm title="Delete stream?" action="Delete stream" isDangerous run={run} onClose={onClose}>
      <p>
        <b class="breaks">{readableName(name)}</b> and all of its content are deleted. This cannot
        be undone.
      </p>
    </Confirm>
  );
}
