/** All nodes that share a store: when each last showed itself, who is dead by that, and the time they agree on. */
import { Effect, Result } from "effect"
import { steady } from "../kit/time.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver, StoreError } from "./driver.ts"
import { decodeStamp, type Stamp, type Stamps, StoreTime, watchMillis } from "./storeTime.ts"

export interface NodesOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  /** This node's name. */
  readonly node: string
  /** A node that has not shown itself for this long is dead. */
  readonly nodeTimeoutMillis: number
  /** How often a node shows itself. */
  readonly beatMillis: number
}

export type Nodes = Effect.Success<ReturnType<typeof makeNodes>>

/** How long the list of nodes counts as fresh. */
const listMillis = 500

export const makeNodes = Effect.fnUntraced(function*(options: NodesOptions) {
  const { call, driver, node, nodeTimeoutMillis } = options
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
  yield* watchWhileInDoubt(options, time, steadyNow, stamps)

  let seen: { readonly at: number; readonly stamps: Stamps } = { at: -Infinity, stamps: new Map() }
  const look = Effect.map(call("nodes", stamps), (list) => {
    time.look(list)
    seen = { at: steadyNow(), stamps: list }
    return list
  })
  const seenStamps = Effect.suspend(() => steadyNow() - seen.at < listMillis ? Effect.succeed(seen.stamps) : look)

  const isDead = ({ at, hasLeft }: Stamp): boolean => hasLeft || at <= time.now() - nodeTimeoutMillis

  return {
    /** The store's time. */
    now: time.now,
    /** A clock for what only this process waits for. */
    steady: steadyNow,
    /** Whether other nodes lived when this one came. */
    hasOthers: [...known.values()].some((stamp) => !isDead(stamp)),
    /** Asks for the list, and moves this node's time forward to that of others. */
    look,
    /** Whether this node was in the list when it was last asked for. */
    isListed: (): boolean => isListed,
    isAlive: (other: string): Effect.Effect<boolean, StoreError> =>
      Effect.map(seenStamps, (list) => {
        const stamp = list.get(other)
        return other === node || (stamp !== undefined && !isDead(stamp))
      }),
    /** Nodes that have not shown themselves for too long, and when they last did. */
    dead: Effect.map(
      seenStamps,
      (list): ReadonlyArray<readonly [node: string, seenAt: number]> =>
        [...list].flatMap(([other, stamp]) => isDead(stamp) ? [[other, stamp.at]] : [])
    )
  }
})

/**
 * Waits until the time is certain. Otherwise, if time then jumped forward, what was stamped meanwhile would be old at
 * once, and this node's own stamp would make others that start believe in the earlier time.
 */
const watchWhileInDoubt = Effect.fnUntraced(function*(
  { beatMillis, call, driver, nodeTimeoutMillis }: NodesOptions,
  time: StoreTime,
  steadyNow: () => number,
  stamps: Effect.Effect<Stamps, StoreError>
) {
  if (!time.isInDoubt) return
  yield* Effect.logInfo(
    `the store ${driver.name}: no server has shown itself since some time; it is watched for others for up to ` +
      `${Math.ceil(watchMillis(nodeTimeoutMillis) / 1_000)} s, as its clock may have been set`
  )
  const until = steadyNow() + 2 * watchMillis(nodeTimeoutMillis)
  while (time.isInDoubt) {
    yield* Effect.sleep(beatMillis)
    // A shaky store is asked again: after a failure here the whole watch would begin anew.
    const seen = yield* Effect.result(call("nodes", stamps))
    if (Result.isSuccess(seen)) time.look(seen.success)
    else if (steadyNow() > until) return yield* Effect.fail(seen.failure)
  }
})
