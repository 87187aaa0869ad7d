/** The receipts that `send` returns. */
import { Effect } from "effect"
import { defaultMessageId } from "../../core/Outbox.ts"
import type { QueuedReason, Receipt, SkippedReason } from "../../Message.ts"
import { DeadLetterError } from "../../WebSocketError.ts"
import { Tracked } from "./receipts.ts"
import type { Target } from "./remote.ts"

/** `handled` of a message whose outcome nobody reports. */
export const neverKnown = (
  session: string,
  reason: "volatile" | "skipped",
  messageId = ""
): Effect.Effect<never, DeadLetterError> =>
  Effect.suspend(() =>
    Effect.fail(new DeadLetterError({ session, messageId, reason, maybeHandled: reason === "volatile" }))
  )

export const skipped = (session: string, reason: SkippedReason): Receipt => ({
  _tag: "Skipped",
  session,
  messageId: "",
  reason,
  handled: neverKnown(session, "skipped")
})

/** A receipt of a message in the queue. Small: what it tells is worked out when somebody asks. */
export abstract class Tracking extends Tracked {
  readonly session: string
  readonly epoch: string
  readonly atMillis: number
  private readonly id: string | undefined

  constructor(peer: Target, epoch: string, offset: number, id: string | undefined, atMillis: number) {
    super(offset)
    this.session = peer.session
    this.epoch = epoch
    this.atMillis = atMillis
    this.id = id
    peer.receipts.add(this)
  }

  get messageId(): string {
    return this.id ?? defaultMessageId(this.epoch, this.offset)
  }

  get handled(): Effect.Effect<void, DeadLetterError> {
    return this.settled(this.session, this.messageId)
  }
}

export class Accepted extends Tracking {
  readonly _tag = "Sent"
}

export class Waiting extends Tracking {
  readonly _tag = "Queued"
  readonly reason: QueuedReason

  constructor(
    peer: Target,
    epoch: string,
    offset: number,
    id: string | undefined,
    atMillis: number,
    reason: QueuedReason
  ) {
    super(peer, epoch, offset, id, atMillis)
    this.reason = reason
  }
}
