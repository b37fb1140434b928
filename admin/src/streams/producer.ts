// The idempotent producer of the send box. A retry has the same number, so that the server stores
// it once.

import { act } from "../api";
import { Failure, messageOf } from "../http";

const characters = "abcdefghijklmnopqrstuvwxyz0123456789";

/** Returns eight random characters. */
export function randomName(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => characters[byte % characters.length]).join("");
}

/** The id of this page's producer. It is new with each load of the page. */
export const producerId = `admin-ui-${randomName()}`;

/** What is sent. It stays until the server has confirmed or refused it. */
export interface Sending {
  body: Uint8Array<ArrayBuffer>;
  contentType: string;
}

export type SendResult =
  | { kind: "stored"; isDuplicate: boolean; offset: string }
  /** The server may have stored it. Sending it again is safe. */
  | { kind: "unknown"; reason: string; failure: Failure | undefined }
  | { kind: "refused"; failure: Failure };

const claimsMax = 5;

export class Producer {
  epoch = 0;
  seq = 0;

  constructor(private readonly name: string) {}

  headers(contentType: string): Record<string, string> {
    return {
      "Content-Type": contentType,
      "Producer-Id": producerId,
      "Producer-Epoch": String(this.epoch),
      "Producer-Seq": String(this.seq),
    };
  }

  /** Sends the content under the present number, which changes only when it is stored. */
  async send({ body, contentType }: Sending): Promise<SendResult> {
    for (let claims = 0; ; claims += 1) {
      try {
        const answer = await act(this.name, "append", this.headers(contentType), body);
        this.seq += 1;
        const offset = answer.headers.get("Stream-Next-Offset") ?? "";
        return { kind: "stored", isDuplicate: answer.status === 204, offset };
      } catch (error) {
        const failure = error instanceof Failure ? error : undefined;
        if (failure === undefined || failure.isTransient) {
          return { kind: "unknown", reason: messageOf(error), failure };
        }
        // Somebody else has used this id with a later epoch: the next epoch is claimed.
        const epoch = failure.headers.get("Producer-Epoch");
        if (failure.code === "stale_epoch" && epoch !== null && claims < claimsMax) {
          this.epoch = Number(epoch) + 1;
          this.seq = 0;
          continue;
        }
        // The server does not know this producer any more.
        const expected = failure.headers.get("Producer-Expected-Seq");
        if (failure.code === "sequence_gap" && expected !== null && claims < claimsMax) {
          this.seq = Number(expected);
          continue;
        }
        return { kind: "refused", failure };
      }
    }
  }
}

const producers = new Map<string, Producer>();

/** Returns this page's producer for a stream. */
export function producerFor(name: string): Producer {
  let producer = producers.get(name);
  if (producer === undefined) {
    producer = new Producer(name);
    producers.set(name, producer);
  }
  return producer;
}

/** Forgets the numbers used on a stream that was deleted, because a new one starts again. */
export function forgetProducer(name: string): void {
  producers.delete(name);
}
