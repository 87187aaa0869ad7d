/** Receipts of the services, for programs without Effect. */
import { identity } from "effect"
import type * as Message from "../Message.ts"
import type { Receipt, Waiting } from "./models.ts"
import type { Run } from "./running.ts"

export const receiptOf = (receipt: Message.Receipt, run: Run): Receipt => {
  const { messageId, session } = receipt
  const base = {
    session,
    messageId,
    handled: (options?: Waiting): Promise<void> => run(receipt.handled, identity, options?.signal)
  }
  switch (receipt._tag) {
    case "Sent":
      return { ...base, _tag: "Sent" }
    case "Queued":
      return { ...base, _tag: "Queued", reason: receipt.reason }
    case "Duplicate":
      return { ...base, _tag: "Duplicate", firstAtMillis: receipt.firstAtMillis }
    case "Skipped":
      return { ...base, _tag: "Skipped", reason: receipt.reason }
  }
}

/** Whether the message goes out, or a first one like it did. */
export const isOut = ({ _tag }: Message.Receipt): boolean => _tag === "Sent" || _tag === "Duplicate"
