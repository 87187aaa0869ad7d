/** Turns receipts of the services into those for programs without Effect. */
import { identity } from "effect"
import type * as Message from "../Message.ts"
import type { Receipt, Waiting } from "./models.ts"
import type { Run } from "./running.ts"
import { checkOptions, waiting } from "./shapes.ts"

export const receiptOf = (receipt: Message.Receipt, run: Run): Receipt => new Told(receipt, run) as Receipt // by `_tag`

/** One is made for each message sent, so it works things out only when asked. */
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

  /** A getter, so that the function can be detached from the receipt. */
  get handled(): Receipt["handled"] {
    return async (options?: Waiting) => {
      checkOptions(options, waiting)
      return this.#run(this.#receipt.handled, identity, options?.signal)
    }
  }
}

/** Whether the message goes out now, or one with its id was sent before. */
export const isOut = ({ _tag }: Message.Receipt): boolean => _tag === "Sent" || _tag === "Duplicate"
