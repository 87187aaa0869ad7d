/** What a store has done, told to the history of a simulation: from that follow which repeats and losses are in order. */
import type { StoreDriver } from "../../src/internal/store/driver.ts"
import type { Conditional } from "../../src/internal/store/outboxes.ts"
import type { PositionOutcome } from "../../src/internal/store/sessions.ts"
import type { History } from "./simulationHistory.ts"

export interface Observed {
  readonly operation: string
  readonly args: ReadonlyArray<unknown>
  readonly result: unknown
  /** Messages in the outboxes before it. */
  readonly waiting: number
}

/** An operation of this process's store was done, and is committed. */
export const observe = (history: History, process: string, { args, operation, result, waiting }: Observed): void => {
  switch (operation) {
    case "removeOutbox":
      if (result === true) history.gaveUp(process, waiting)
      return
    case "giveUp": {
      const [{ fates }] = args as Parameters<StoreDriver["giveUp"]>
      if ((result as Conditional)._tag === "Done") history.gaveUp(process, fates.length)
      return
    }
    case "ack": {
      const [acks] = args as Parameters<StoreDriver["ack"]>
      for (const { fates } of acks) history.gaveUp(process, fates.length)
      return
    }
    case "savePositions": {
      const [requests] = args as Parameters<StoreDriver["savePositions"]>
      const outcomes = result as ReadonlyArray<PositionOutcome>
      requests.forEach(({ epoch, handled }, index) => {
        if (outcomes[index] === "Saved") history.saved(epoch, handled)
      })
    }
  }
}
