/** Which message a handler is working on, known in its fiber and in those that it starts. */
import { Context } from "effect"
import type { Peer } from "./peer.ts"

/** A session's messages being handled, by one fiber, in one tenure. */
export interface Work {
  readonly peer: Peer
  readonly tenure: number
  /** The message is done: what its fibers still do belongs to no message. */
  isOver: boolean
}

export const CurrentWork = Context.Reference<Work | undefined>("resilient-websocket/internal/CurrentWork", {
  defaultValue: () => undefined
})
