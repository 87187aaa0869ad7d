/** How a node shows that it lives, and how sure it may be that no other node takes it for dead. */
import { Effect, Result } from "effect"
import { wall } from "../kit/time.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"
import type { Nodes } from "./nodes.ts"
import { encodeStamp } from "./storeTime.ts"

export interface PresenceOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  readonly node: string
  readonly nodes: Nodes
  /** A node that has not shown itself for this long is dead. */
  readonly nodeTimeoutMillis: number
  /** A session that is not let go within this time is taken by force. */
  readonly handoffTimeoutMillis: number
  /** How often this node shows itself. */
  readonly beatMillis: number
}

export const makePresence = Effect.fnUntraced(function*(options: PresenceOptions) {
  const { beatMillis, call, driver, handoffTimeoutMillis, node, nodes, nodeTimeoutMillis } = options
  const { now } = nodes
  const rejoining: Array<Effect.Effect<void, StoreError>> = []
  let touchedAt = now()
  /** Since when this node has shown itself without a break. */
  let aliveSince = touchedAt
  /** Whether this node was away for long, and has not yet looked at what it missed. */
  let isBack = false

  const wallNow = yield* wall
  // A node that only lags may lose a session by force, hence the handoff timeout. But at least one beat, and time for
  // it, must fit in.
  const sureMillis = Math.max(2 * beatMillis, Math.min(nodeTimeoutMillis, handoffTimeoutMillis))
  let sureFrom = nodes.steady()
  /** The same by the wall clock, as steady time may stand still while the machine sleeps. */
  let sureFromOnWall = wallNow()
  yield* call("touchNode", driver.touchNode(node, touchedAt))
  /** Callers that wait until this node has shown itself again. */
  const unsure = new Set<() => void>()
  const isSure = (): boolean => nodes.steady() - sureFrom < sureMillis && wallNow() - sureFromOnWall < sureMillis
  // Others find this node dead at once, without waiting, and sweep up what it still has.
  yield* Effect.addFinalizer(() => Effect.ignore(driver.touchNode(node, encodeStamp({ at: now(), hasLeft: true }))))

  /**
   * Shows that this node lives. If others may have taken it for dead since the last time, it looks at what it missed:
   * they may have forgotten its nudges, and detached its sessions.
   */
  const touch = Effect.gen(function*() {
    // On every beat: while this node slept or stood still, others may have gone on without it, or moved to another
    // time.
    const listed = yield* Effect.result(nodes.look)
    if (Result.isFailure(listed)) yield* Effect.logDebug("the store does not say who lives", listed.failure)
    const wasForgotten = Result.isSuccess(listed) && !nodes.isListed()
    const from = nodes.steady()
    const fromOnWall = wallNow()
    const at = now()
    yield* call("touchNode", driver.touchNode(node, at))
    sureFrom = from
    sureFromOnWall = fromOnWall
    if (isSure()) {
      for (const resume of unsure) resume()
      unsure.clear()
    }
    // Others have forgotten this node, or the store has lost everything.
    if (Math.abs(at - touchedAt) >= nodeTimeoutMillis || wasForgotten) {
      isBack = true
      aliveSince = at
    }
    touchedAt = at
    if (!isBack) return
    yield* Effect.forEach(rejoining, (look) => look, { discard: true })
    isBack = false
  })

  const beat = Effect.andThen(
    Effect.sleep(beatMillis),
    Effect.catchCause(touch, (cause) => Effect.logDebug("the store was not told that this server lives", cause))
  )
  yield* Effect.forkScoped(Effect.forever(beat), { startImmediately: true })

  return {
    aliveSince: (): number => aliveSince,
    /** Whether no other node can take this one for dead. */
    isSure,
    /** Waits until no other node can take this one for dead. */
    sure: Effect.callback<void>((resume) => {
      if (isSure()) return resume(Effect.void)
      const go = () => resume(Effect.void)
      unsure.add(go)
      return Effect.sync(() => unsure.delete(go))
    }),
    /** Runs `look` whenever this node was away for long, until it succeeds. */
    onRejoin: (look: Effect.Effect<void, StoreError>): void => {
      rejoining.push(look)
    }
  }
})
