/** Which session's messages a handler is working on, known in its fiber and in those that it starts. */
import { Context } from "effect"
import type { Peer } from "./peer.ts"

/** The handling of a session's messages by one fiber in one tenure. */
export interface Work {
  readonly peer: Peer
  readonly tenure: number
  /** The handling has ended: what its fibers still do belongs to no message. */
  isOver: boolean
}

export const CurrentWork = Context.Reference<Work | undefined>("resilient-websocket/internal/CurrentWork", {
  defaultValue: () => undefined
})
