/** This process among those that share a store: shows that it lives, and exchanges nudges with the others. */
import { Effect, Random } from "effect"
import { makeId } from "../kit/ids.ts"
import type { Calls } from "./calls.ts"
import type { StoreDriver } from "./driver.ts"
import { makeNodes } from "./nodes.ts"
import { makeNudges } from "./nudges.ts"
import { makePresence } from "./presence.ts"

export interface MembersOptions {
  readonly driver: StoreDriver
  readonly call: Calls
  /** How often nudges are looked for when no signal came. */
  readonly pollMillis: number
  /** A node that has not shown itself for this long is dead. */
  readonly nodeTimeoutMillis: number
  /** A session that is not let go within this time is taken by force. */
  readonly handoffTimeoutMillis: number
}

export type Members = Effect.Success<ReturnType<typeof makeMembers>>

export const makeMembers = Effect.fnUntraced(function*(options: MembersOptions) {
  const { call, driver, handoffTimeoutMillis, nodeTimeoutMillis, pollMillis } = options
  const node = makeId(yield* Random.Random)
  const beatMillis = nodeTimeoutMillis / 5
  const nodes = yield* makeNodes({ driver, call, node, nodeTimeoutMillis, beatMillis })
  const { hasOthers, isAlive, now, steady } = nodes
  const { aliveSince, isSure, onRejoin, sure } = yield* makePresence({
    driver,
    call,
    node,
    nodes,
    nodeTimeoutMillis,
    handoffTimeoutMillis,
    beatMillis
  })
  const { nudge, onNudges } = yield* makeNudges({ driver, call, node, pollMillis })

  return {
    node,
    hasOthers,
    now,
    steady,
    isSure,
    sure,
    onRejoin,
    isAlive,
    /**
     * Nodes that have not shown themselves for too long, and when they last did. None, if this node itself could not
     * reach the store until a moment ago: then it can't tell who is dead.
     */
    dead: Effect.suspend(() => now() - aliveSince() < nodeTimeoutMillis ? Effect.succeed([]) : nodes.dead),
    nudge,
    onNudges,
    /** Sessions just attached that this node already had, so that no other node needs to be told. */
    kept: new Set<string>()
  }
})
