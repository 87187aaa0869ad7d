/** Receipts of the services, for programs without Effect. */
import { identity } from "effect"
import type * as Message from "../Message.ts"
import type { Receipt, Waiting } from "./models.ts"
import type { Run } from "./running.ts"
import { checkOptions, waiting } from "./shapes.ts"

export const receiptOf = (receipt: Message.Receipt, run: Run): Receipt => new Told(receipt, run) as Receipt // by its tag

/** There is one for each message that is sent: what it can tell is worked out when it is asked. */
class Told {
  readonly _tag: Receipt["_tag"]
  readonly session: string
  readonly reason: string | undefined
  readonly firstAtMillis: number | undefined
  readonly #receipt: Message.Receipt
  readonly #run: Run

  constructor(receipt: Message.Receipt, run: Run) {
    this._tag = receipt._tag
    this.session = receipt.session
    this.reason = "reason" in receipt ? receipt.reason : undefined
    this.firstAtMillis = "firstAtMillis" in receipt ? receipt.firstAtMillis : undefined
    this.#receipt = receipt
    this.#run = run
  }

  get messageId(): string {
    return this.#receipt.messageId
  }

  /** A getter, so that it can be taken from the receipt. */
  get handled(): Receipt["handled"] {
    return async (options?: Waiting) => {
      checkOptions(options, waiting)
      return this.#run(this.#receipt.handled, identity, options?.signal)
    }
  }
}

/** Whether the message goes out, or a first one like it did. */
export const isOut = ({ _tag }: Message.Receipt): boolean => _tag === "Sent" || _tag === "Duplicate"
