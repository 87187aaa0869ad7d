/**
 * This process among those that share a store: it shows that it lives, and exchanges nudges with the others. Nudges are
 * kept in the store until they are taken, so that one that is missed is found at the next look.
 */
import { Effect, Random, Result } from "effect"
import { makeId } from "../kit/ids.ts"
import { makeSignal } from "../kit/signal.ts"
import { steady, wall } from "../kit/time.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"
import { decodeStamp, encodeStamp, type Stamp, type Stamps, StoreTime, watchMillis } from "./storeTime.ts"

export interface MembersOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  /** How often nudges are looked for without being told. */
  readonly pollMillis: number
  /** A node that has not shown itself for this long is dead. */
  readonly nodeTimeoutMillis: number
  /** A session that is not left in this time is taken by force. */
  readonly handoffTimeoutMillis: number
}

export type Members = Effect.Success<ReturnType<typeof makeMembers>>

const maxNudges = 1_000
/** How long the list of nodes is believed. */
const listMillis = 500

export const makeMembers = Effect.fnUntraced(function*(options: MembersOptions) {
  const { call, driver, nodeTimeoutMillis } = options
  const node = makeId(yield* Random.Random)
  /** Whether this node was in the list when it was last asked for. */
  let isListed = false
  const stamps = Effect.map(driver.nodes, (list): Stamps => {
    const others = new Map(list.map((entry) => [entry.node, decodeStamp(entry.seenAt)]))
    isListed = others.delete(node)
    return others
  })
  const known = yield* stamps
  const steadyNow = yield* steady
  const time = new StoreTime(steadyNow, yield* driver.clock, known, nodeTimeoutMillis)
  const { now } = time
  const beatMillis = nodeTimeoutMillis / 5
  // What is stamped meanwhile would be old at once if time then goes forward, and this node's own stamp would look to
  // others that begin like somebody who lives by the time of before.
  if (time.isInDoubt) {
    yield* Effect.logInfo(
      `the store ${driver.name}: no server has shown itself since some time; it is watched for others for up to ` +
        `${Math.ceil(watchMillis(nodeTimeoutMillis) / 1_000)} s, as its clock may have been set`
    )
    const until = steadyNow() + 2 * watchMillis(nodeTimeoutMillis)
    while (time.isInDoubt) {
      yield* Effect.sleep(beatMillis)
      // A store that is shaky is asked again: who fails here has to watch from the beginning.
      const seen = yield* Effect.result(call("nodes", stamps))
      if (Result.isSuccess(seen)) time.look(seen.success)
      else if (steadyNow() > until) return yield* Effect.fail(seen.failure)
    }
  }
  const listeners: Array<(sessions: ReadonlyArray<string>) => Effect.Effect<void>> = []
  const rejoining: Array<Effect.Effect<void, StoreError>> = []
  const work = yield* makeSignal
  let seen: { readonly at: number; readonly stamps: Stamps } = { at: -Infinity, stamps: new Map() }
  let touchedAt = now()
  /** Since when it has shown itself without a break. */
  let aliveSince = touchedAt
  /** Whether it was away for long, and has not looked what it missed. */
  let isBack = false

  const wallNow = yield* wall
  // A session may be taken by force from one that only lags. But a beat has to fit in, and some time for it.
  const sureMillis = Math.max(2 * beatMillis, Math.min(nodeTimeoutMillis, options.handoffTimeoutMillis))
  let sureFrom = steadyNow()
  /** Beside it, as steady time may stand still while the machine sleeps. */
  let sureFromOnWall = wallNow()
  yield* call("touchNode", driver.touchNode(node, touchedAt))
  /** Whoever waits until this node has shown itself again. */
  const unsure = new Set<() => void>()
  const isSure = (): boolean => steadyNow() - sureFrom < sureMillis && wallNow() - sureFromOnWall < sureMillis
  // Dead from here on, and found so by others without a wait; what it still has is swept up by them.
  yield* Effect.addFinalizer(() => Effect.ignore(driver.touchNode(node, encodeStamp({ at: now(), hasLeft: true }))))

  const takeAll = Effect.gen(function*() {
    while (true) {
      const sessions = yield* call("takeNudges", driver.takeNudges(node, maxNudges))
      if (sessions.length > 0) { for (const listener of listeners) yield* listener(sessions) }
      if (sessions.length < maxNudges) return
    }
  })

  const look = Effect.map(call("nodes", stamps), (list) => {
    time.look(list)
    seen = { at: steadyNow(), stamps: list }
    return list
  })

  /**
   * Shows that this node lives. If others may have taken it for dead since the last time, it looks what it missed: they
   * may have forgotten what it was to be told, and detached its sessions.
   */
  const touch = Effect.gen(function*() {
    // Each time: others may have gone on without this one while it slept or stood still, or have come to another time.
    const listed = yield* Effect.result(look)
    if (Result.isFailure(listed)) yield* Effect.logDebug("the store does not say who lives", listed.failure)
    const wasForgotten = Result.isSuccess(listed) && !isListed
    const from = steadyNow()
    const fromOnWall = wallNow()
    const at = now()
    yield* call("touchNode", driver.touchNode(node, at))
    sureFrom = from
    sureFromOnWall = fromOnWall
    if (isSure()) {
      for (const resume of unsure) resume()
      unsure.clear()
    }
    // Others have forgotten it, or the store everything.
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

  const loop = Effect.gen(function*() {
    while (true) {
      yield* Effect.raceFirst(work.wait, Effect.sleep(options.pollMillis))
      // A store that is down is asked again at the next look.
      yield* Effect.catchCause(takeAll, (cause) => Effect.logDebug("nudges are put off", cause))
    }
  })

  yield* driver.watch(node, work.notify)
  yield* Effect.forkScoped(loop, { startImmediately: true })

  const seenStamps = Effect.suspend(() => steadyNow() - seen.at < listMillis ? Effect.succeed(seen.stamps) : look)

  const isDead = ({ at, hasLeft }: Stamp): boolean => hasLeft || at <= now() - nodeTimeoutMillis

  const hasOthers = [...known.values()].some((stamp) => !isDead(stamp))

  return {
    node,
    /** Whether others lived when this server came. */
    hasOthers,
    /** The store's time. */
    now,
    /** For what only this process waits for. */
    steady: steadyNow,
    /** Whether no other node can take this one for dead. */
    isSure,
    /** Waits until that is so. */
    sure: Effect.callback<void>((resume) => {
      if (isSure()) return resume(Effect.void)
      const go = () => resume(Effect.void)
      unsure.add(go)
      return Effect.sync(() => unsure.delete(go))
    }),
    onRejoin: (look: Effect.Effect<void, StoreError>): void => {
      rejoining.push(look)
    },
    isAlive: (other: string): Effect.Effect<boolean, StoreError> =>
      Effect.map(seenStamps, (list) => {
        const stamp = list.get(other)
        return other === node || (stamp !== undefined && !isDead(stamp))
      }),
    /**
     * Nodes that have not shown themselves for too long, and when they last did. Who could not reach the store itself
     * until a moment ago can't tell who is dead.
     */
    dead: Effect.suspend((): Effect.Effect<ReadonlyArray<readonly [node: string, seenAt: number]>, StoreError> => {
      if (now() - aliveSince < nodeTimeoutMillis) return Effect.succeed([])
      return Effect.map(
        seenStamps,
        (list) => [...list].flatMap(([other, stamp]) => isDead(stamp) ? [[other, stamp.at]] : [])
      )
    }),
    nudge: (other: string | undefined, session: string): Effect.Effect<void, StoreError> =>
      other === undefined || other === node ? Effect.void : call("nudge", driver.nudge(other, session)),
    /** Calls `listener` with sessions that something happened to, for as long as the store lives. */
    onNudges: (listener: (sessions: ReadonlyArray<string>) => Effect.Effect<void>): void => {
      listeners.push(listener)
    },
    /** Sessions just attached that this node had before too, so that no other one is to be told. */
    kept: new Set<string>()
  }
})
