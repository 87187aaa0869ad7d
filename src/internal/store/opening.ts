/** How this server opens stored outboxes: tells the owner before it, and puts back what the store has lost. */
import { Effect, Random } from "effect"
import type { Opened } from "../../MessageQueue.ts"
import type { MessageQueueError } from "../../WebSocketError.ts"
import { makeId } from "../kit/ids.ts"
import type { StoreError } from "./driver.ts"
import { refuse } from "./queueFailures.ts"
import type { QueueParts } from "./queueParts.ts"
import { StoredLog } from "./storedLog.ts"
import { ifStorable } from "./texts.ts"

export const makeOpening = Effect.fnUntraced(function*(parts: QueueParts) {
  const { call, driver, logs, members, moved, onMoved } = parts
  const { node, steady } = members
  const random = yield* Random.Random

  /**
   * The node that opened the outbox last, unless that is known to be this one: it must learn that the outbox was taken.
   */
  const formerOwner = (session: string): Effect.Effect<string | undefined, StoreError> => {
    if (members.kept.delete(session)) return Effect.succeed(undefined)
    const outboxes = ifStorable("outboxes", [session], call("outboxes", driver.outboxes([session])))
    return Effect.map(outboxes, ([state]) => state?.node)
  }

  return Effect.fnUntraced(function*(
    session: string,
    generation: number,
    share: string | undefined
  ): Effect.fn.Return<Opened, StoreError | MessageQueueError> {
    const former = yield* formerOwner(session)
    // If the store has lost the outbox, it is made again with the epoch known here.
    const here = logs.get(session)
    const epoch = here === undefined || moved.has(here) ? undefined : here.epoch
    const request = { session, generation, node, newEpoch: epoch ?? makeId(random), isPutBack: epoch !== undefined }
    const state = yield* ifStorable("openOutbox", [session], call("openOutbox", driver.openOutbox(request)))
    if (state.generation > generation) return yield* refuse(session, "open", "fenced")
    const log = logs.get(session)
    const isNewer = log !== undefined && generation > log.generation
    const own = log ?? new StoredLog(state)
    if (log !== undefined) {
      logs.tracked(log, () => log.reopened(state))
      moved.delete(log)
    }
    own.openedAt = steady()
    logs.opened(own, share)
    logs.schedule(own)
    if (isNewer) onMoved.tell(session, generation)
    yield* Effect.ignore(members.nudge(former, session))
    return { epoch: state.epoch, acked: state.acked, last: state.last, ...(state.settled ? {} : { isUncertain: true }) }
  })
})
