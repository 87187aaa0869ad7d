/** The fibers of handlers: one for each session that has something to handle, supervised from its first failure on. */
import { Cause, Context, Effect, Exit, FiberSet } from "effect"
import type { Peer } from "../session/peer.ts"
import { CurrentWork, type Work } from "../session/work.ts"
import { AtWork } from "./closing.ts"
import { supervised, type Worker } from "./supervisor.ts"

export interface HandlersOptions {
  readonly worker: Omit<Worker, "name" | "loop">
  /** Whether handler fibers must know which message they work on. */
  readonly knowsWork: boolean
}

export const makeHandlers = Effect.fnUntraced(function*<R>({ knowsWork, worker }: HandlersOptions) {
  const fibers = yield* FiberSet.make<void, unknown>()
  const context = Context.add(yield* Effect.context<R>(), AtWork, true)
  const runPlainly = Effect.runForkWith(context)

  /** A handler that is done at once, as most are, costs only its fiber. */
  const fork = (
    peer: Peer,
    effect: Effect.Effect<void, unknown, R>,
    onExit: (exit: Exit.Exit<void, unknown>) => void
  ): void => {
    if (fibers.state._tag === "Closed") return
    const { incoming } = peer
    const { tenure } = peer.own
    const work: Work | undefined = knowsWork ? { peer, tenure, isOver: false } : undefined
    const fiber = work === undefined
      ? runPlainly(effect)
      : Effect.runForkWith(Context.add(context, CurrentWork, work))(effect)
    const ended = (exit: Exit.Exit<void, unknown>) => {
      // A handler that lost its session half-way may still run, and still counts as that session's.
      if (work !== undefined) work.isOver = peer.own.tenure === tenure
      onExit(exit)
    }
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return ended(exit)
    FiberSet.addUnsafe(fibers, fiber)
    incoming.runsIn(fiber)
    fiber.addObserver((exit) => {
      incoming.runsIn(undefined)
      ended(exit)
    })
  }

  /** Runs what handles a session's messages, until the scope closes. */
  return (peer: Peer, effect: Effect.Effect<void, unknown, R>, onEnd: () => void): void => {
    fork(peer, effect, (exit) => {
      if (Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause)) return onEnd()
      // Supervised from its first failure on: until then that would only cost.
      let first: Effect.Effect<void, unknown, R> | undefined = exit
      const loop = Effect.suspend(() => {
        const next = first ?? effect
        first = undefined
        return next
      })
      fork(peer, supervised({ ...worker, name: "handler", loop }), onEnd)
    })
  }
})
