/** What is done for events as they happen: the user's effects, run in order, and the functions of the face without Effect. */
import { Cause, Context, Effect, Fiber, type Scope } from "effect"
import type { DeadLetter } from "../../Message.ts"
import type { ConnectionState } from "../../ResilientClient.ts"
import type { ConnectionEvent } from "../../ResilientServer.ts"
import type { Events } from "./events.ts"
import { inWords, type RareLog } from "./rareLog.ts"

/** Functions that are called in the middle of other work, however many events there are at once. */
export interface Observers {
  readonly failure?: (cause: Cause.Cause<unknown>) => void
  readonly deadLetter?: (letter: DeadLetter<unknown>) => void
  readonly connectionEvent?: (event: ConnectionEvent) => void
  readonly state?: (state: ConnectionState) => void
}

/** For the face without Effect: it has no fibers to run effects in, and no reader that could be too slow. */
export const Observers = Context.Reference<Observers>("resilient-websocket/internal/Observers", {
  defaultValue: () => ({})
})

/** How many events may wait for a hook. */
const maxWaiting = 16_384

/** How long a hook may go on when its server or client closes, in ms. */
const closeMillis = 1_000

/** Runs the user's effect for every event, one at a time, until the scope closes and those that wait are done. */
export const runHook = Effect.fnUntraced(function*<A, R>(
  name: string,
  hook: ((event: A) => Effect.Effect<unknown, unknown, R>) | undefined,
  events: Events<A>,
  { onDropped, rare }: { readonly rare: RareLog; readonly onDropped: (events: number) => void }
): Effect.fn.Return<void, never, R | Scope.Scope> {
  if (hook === undefined) return
  const { end, pull } = events.listen(maxWaiting, (dropped) => {
    onDropped(dropped)
    rare.warn(`${name} is behind`, `${name} is too slow: events are dropped, the oldest first`)
  })
  const call = (event: A) =>
    Effect.catchCause(Effect.suspend(() => hook(event)), (cause) =>
      Cause.hasInterruptsOnly(cause)
        ? Effect.failCause(cause)
        : Effect.sync(() => rare.error(name, `${name} failed: ${inWords(cause)}`)))
  const loop = Effect.forever(Effect.flatMap(pull, (batch) => Effect.forEach(batch, call, { discard: true })))
  const fiber = yield* Effect.forkDetach(Effect.exit(loop), { startImmediately: true })
  yield* Effect.addFinalizer(() => {
    end()
    return Effect.andThen(
      Effect.timeoutOrElse(Fiber.await(fiber), { duration: closeMillis, orElse: () => Effect.void }),
      Fiber.interrupt(fiber)
    )
  })
})
