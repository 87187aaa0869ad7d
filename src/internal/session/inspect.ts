/** What can be asked about a session, and about its messages while they are under way. */
import { Effect, Option } from "effect"
import type { CircuitBreaker } from "../../CircuitBreaker.ts"
import { isText } from "../../core/Text.ts"
import type { Deduplicator } from "../../Deduplicator.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import { type LocateError, SessionNotFoundError } from "../../WebSocketError.ts"
import type { State as CircuitState } from "../circuits/circuit.ts"
import { plain } from "./dialects.ts"
import type { MessageState, SessionStats } from "./models.ts"
import type { Peer } from "./peer.ts"
import { fateOf } from "./remoteProgress.ts"

/** Whether the peer's circuit holds messages back. */
export const isCircuitOpen = (breaker: CircuitBreaker["Service"], peer: Peer): boolean => {
  const state = breaker.stateUnsafe(peer.circuit)._tag
  return state === "Open" || state === "Isolated"
}

export const statsOf = (
  peer: Peer,
  queuedMessages: number,
  queuedBytes: number,
  breaker: CircuitBreaker["Service"],
  onWall: (steadyMillis: number) => number
): SessionStats => ({
  session: peer.session,
  principal: peer.principal,
  connected: peer.connected,
  plain: peer.dialect === plain,
  generation: peer.own.generation,
  queuedMessages,
  queuedBytes,
  pendingMessages: peer.incoming.size,
  heardAtMillis: timeOf(peer.link?.liveness.heardAt ?? peer.heardAt, onWall),
  ...circuitStats(breaker.stateUnsafe(peer.circuit))
})

const timeOf = (millis: number | undefined, onWall: (steadyMillis: number) => number): number | undefined =>
  millis === undefined ? undefined : onWall(millis)

/** What a session's stats show of its circuit. */
export const circuitStats = (state: CircuitState): Pick<SessionStats, "circuit" | "failures"> => ({
  circuit: state._tag,
  failures: state._tag === "Closed" ? state.consecutiveFailures : state._tag === "Open" ? state.consecutiveOpenings : 0
})

/** `peer` is undefined for a session that is elsewhere. */
export const locate = Effect.fnUntraced(function*(
  queue: MessageQueue["Service"],
  deduplicator: Deduplicator["Service"],
  session: string,
  peer: Peer | undefined,
  messageId: string
): Effect.fn.Return<MessageState, LocateError | SessionNotFoundError> {
  if (!isText(messageId)) return "unknown" // no message has such an id, and a store may be unable to look for it
  const found = yield* queue.find(session, messageId)
  if (found !== undefined) return found.state
  const receipt = Option.getOrUndefined(yield* deduplicator.lookup({ scope: session, key: messageId }))
  const target = receipt ?? positionIn(messageId)
  // Another server may have had the session meanwhile: the store knows what each server has told it.
  if (peer === undefined || queue.durable) return yield* stateInStore(queue, session, target)
  return target?.epoch === peer.epoch ? peer.receipts.stateOf(target.offset) : "unknown"
})

const stateInStore = Effect.fnUntraced(function*(
  queue: MessageQueue["Service"],
  session: string,
  target: Position | undefined
): Effect.fn.Return<MessageState, LocateError | SessionNotFoundError> {
  const [progress] = yield* queue.progress([{ session, after: (target?.offset ?? 1) - 1 }])
  if (progress === undefined) return yield* new SessionNotFoundError({ session })
  if (target?.epoch !== progress.epoch) return "unknown"
  return fateOf(target.offset, progress) === "handled" ? "handled" : "unknown"
})

interface Position {
  readonly epoch: string
  readonly offset: number
}

/** The position that a default id names. */
const positionIn = (messageId: string): Position | undefined => {
  const dash = messageId.lastIndexOf("-")
  const offset = Number(messageId.slice(dash + 1))
  return dash > 0 && Number.isSafeInteger(offset) && offset > 0
    ? { epoch: messageId.slice(0, dash), offset }
    : undefined
}
