/** What appends to a stored queue come to: in one try, in the end, and as the sender is told. */
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { Appended } from "../../MessageQueue.ts"
import { MessageQueueError } from "../../WebSocketError.ts"
import type { Draft } from "./drafts.ts"
import type { StoreError } from "./driver.ts"
import type { AppendResult } from "./outboxes.ts"

/** The outcome of one try. */
export type Outcome =
  | { readonly _tag: "Appended"; readonly epoch: string; readonly first: number; readonly at: number }
  | { readonly _tag: "Again" }
  | Exclude<AppendResult, { readonly _tag: "Appended" }>

/** The outcome of a draft in the end, and what was dropped to make room for it. */
export interface Settled {
  readonly outcome: Outcome
  readonly dropped: ReadonlyArray<OutboxMessage>
}

/** To be tried again: it was not tried, or was refused together with others. */
export const again: Outcome = { _tag: "Again" }

/** The outcome when the policy drops the newest. */
export const notTaken: Outcome = { _tag: "Full", limit: "messages", messages: 0, bytes: 0 }

/** The result for the sender; `at` is the time given when nothing was appended. */
export const appendedOf = ({ dropped, outcome }: Settled, at: number): Appended => {
  if (outcome._tag === "Appended") {
    return { epoch: outcome.epoch, first: outcome.first, enqueuedAt: outcome.at, dropped }
  }
  if (outcome !== notTaken) throw new Error(`an append came to ${outcome._tag}`)
  return { epoch: "", first: undefined, enqueuedAt: at, dropped }
}

/** The store has failed, and may have done the append all the same. */
export const appendFailed = (draft: Pick<Draft, "session" | "inDoubt">, cause: StoreError): MessageQueueError =>
  new MessageQueueError({
    session: draft.session,
    operation: "append",
    reason: "store",
    cause: cause.cause,
    ...(draft.inDoubt ? { inDoubt: true } : {})
  })
