/** Whether the store lost an outbox that may be put back. If this server had it, it has been put back by then. */
import { Effect } from "effect"
import type { StoreError } from "./driver.ts"
import type { QueueParts } from "./queueParts.ts"

export const mayReturn = (
  { history, logs, moved }: QueueParts,
  session: string
): Effect.Effect<boolean, StoreError> => {
  const log = logs.get(session)
  if (log !== undefined && !moved.has(log)) return history.hasLost(session)
  return Effect.flatMap(
    history.lookForChange,
    (hasChanged) => hasChanged ? Effect.map(history.wasEnded(session), (isEnded) => !isEnded) : Effect.succeed(false)
  )
}
