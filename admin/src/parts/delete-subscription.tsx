// The question before a subscription is deleted.

import { actOnSubscription } from "../api";
import { readableName } from "../streams/names";
import { Confirm } from "./controls";
import { toast } from "./toasts";

interface DeleteSubscriptionProps {
  id: string;
  onClose: () => void;
  onDeleted: () => void;
}

export function DeleteSubscription({ id, onClose, onDeleted }: DeleteSubscriptionProps) {
  const run = async () => {
    await actOnSubscription(id, "delete");
    toast(`${readableName(id)} is deleted.`);
    onDeleted();
  };
  return (
    <Confirm
      title="Delete subscription?"
      action="Delete subscription"
      isDangerous
      run={run}
      onClose={onClose}
    >
      <p>
        <b class="breaks">{readableName(id)}</b> and its cursors are deleted. The streams stay. This
        cannot be undone.
      </p>
    </Confirm>
  );
}
