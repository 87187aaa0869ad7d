/** Small things that server and client share. */
import { type Duration, Effect, Option, Redacted, Schedule } from "effect"
import type { CircuitBreaker } from "../CircuitBreaker.ts"
import { defaultMaxPayloadBytes, defaultWindow, type Window, wireCount } from "../core/Protocol.ts"
import { authRule, isAuth, isText } from "../core/Text.ts"
import type { Deduplicator } from "../Deduplicator.ts"
import type { MessageGap } from "../Message.ts"
import type { MessageQueue } from "../MessageQueue.ts"
import { HandshakeError, SessionNotFoundError, type WebSocketError } from "../WebSocketError.ts"
import { fullJitter } from "./backoff.ts"
import type { State as CircuitState } from "./circuit.ts"
import { fateOf } from "./elsewhere.ts"
import type { MessageState, SessionStats } from "./models.ts"
import * as Check from "./options.ts"
import type { Peer } from "./peer.ts"
import type { RareLog } from "./rareLog.ts"
import { defaultIntensity, type Intensity } from "./supervisor.ts"

/** Five attempts in all: the first and four more. */
export const defaultHandlerRetry: Schedule.Schedule<unknown, unknown> = Schedule.upTo(fullJitter(1_000, 60_000), {
  times: 4
})

/** A token as hooks get it: nothing that shows it does so by chance. */
export const redacted = (token: string | undefined): Redacted.Redacted | undefined =>
  token === undefined ? undefined : Redacted.make(token, { label: "token" })

export const plainText = (text: string | Redacted.Redacted | undefined): string | undefined =>
  Redacted.isRedacted(text) ? Redacted.value(text) : text

/** What is done about a gap when the user has no handler for it. */
export const logGap = (rare: RareLog) => (gap: MessageGap): Effect.Effect<void> =>
  Effect.sync(() => rare.warn("gap", `${gap.count} messages of session ${gap.session} will never come (${gap.reason})`))

export const forbidden = new HandshakeError({
  reason: "forbidden",
  detail: "the renewed token is somebody else's",
  retryable: false
})

export const renewalTimeout = new HandshakeError({
  reason: "overloaded",
  detail: "the renewed token could not be checked in time",
  retryable: true
})

/** A token that no server would take ends the attempt here, and not as a breach of the protocol there. */
export const checkedToken = (token: string | undefined): Effect.Effect<string | undefined, HandshakeError> =>
  token === undefined || isAuth(token)
    ? Effect.succeed(token)
    : Effect.fail(new HandshakeError({ reason: "invalid", detail: `a token has ${authRule}`, retryable: false }))

/** What a side takes, as its options say; both go on the wire. */
export const limitsOf = (options: {
  readonly window?: Partial<Window> | undefined
  readonly maxPayloadBytes?: number | undefined
}): { readonly window: Window; readonly maxPayload: number } => ({
  window: {
    messages: wireCount(Check.count("window.messages", options.window?.messages, defaultWindow.messages)),
    bytes: wireCount(Check.count("window.bytes", options.window?.bytes, defaultWindow.bytes))
  },
  maxPayload: wireCount(Check.count("maxPayloadBytes", options.maxPayloadBytes, defaultMaxPayloadBytes))
})

/** The engine's times, as the options say. */
export const timesOf = (options: {
  readonly heartbeat?: Duration.Input | undefined
  readonly heartbeatTimeout?: Duration.Input | undefined
  readonly ackTimeout?: Duration.Input | undefined
  readonly expirySweep?: Duration.Input | undefined
}) => ({
  heartbeat: Check.millis("heartbeat", options.heartbeat, "10 seconds"),
  heartbeatTimeout: Check.millis("heartbeatTimeout", options.heartbeatTimeout, "8 seconds"),
  ackTimeout: Check.millis("ackTimeout", options.ackTimeout, "30 seconds"),
  expirySweep: Check.millis("expirySweep", options.expirySweep, "60 seconds")
})

export const intensityOf = (
  options: { readonly restarts: number; readonly period: Parameters<typeof Check.millis>[1] } | undefined
): Intensity => ({
  restarts: Check.count("restartIntensity.restarts", options?.restarts, defaultIntensity.restarts, 0),
  periodMillis: Check.millis("restartIntensity.period", options?.period, defaultIntensity.periodMillis)
})

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
  plain: peer.plain,
  generation: peer.generation,
  queuedMessages,
  queuedBytes,
  pendingMessages: peer.inbound.size,
  heardAtMillis: timeOf(peer.liveness?.heardAt ?? peer.heardAt, onWall),
  ...circuitStats(breaker.stateUnsafe(peer.circuit))
})

const timeOf = (millis: number | undefined, onWall: (steadyMillis: number) => number): number | undefined =>
  millis === undefined ? undefined : onWall(millis)

/** What the state of its circuit says of a session. */
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
): Effect.fn.Return<MessageState, WebSocketError> {
  if (!isText(messageId)) return "unknown" // no message has it, and a store may not be able to look for it
  const found = yield* queue.find(session, messageId)
  if (found !== undefined) return found.state
  const receipt = Option.getOrUndefined(yield* deduplicator.lookup({ scope: session, key: messageId }))
  const target = receipt ?? positionIn(messageId)
  // Another server may have had the session, and know more: the store knows what each has told it.
  if (peer === undefined || queue.durable) return yield* stateInStore(queue, session, target)
  return target?.epoch === peer.epoch ? peer.receipts.stateOf(target.offset) : "unknown"
})

const stateInStore = Effect.fnUntraced(function*(
  queue: MessageQueue["Service"],
  session: string,
  target: Position | undefined
): Effect.fn.Return<MessageState, WebSocketError> {
  const [progress] = yield* queue.progress([{ session, after: (target?.offset ?? 1) - 1 }])
  if (progress === undefined) return yield* new SessionNotFoundError({ session })
  if (target?.epoch !== progress.epoch) return "unknown"
  return fateOf(target.offset, progress) === "handled" ? "handled" : "unknown"
})

interface Position {
  readonly epoch: string
  readonly offset: number
}

/** Where the message of a default id is. */
const positionIn = (messageId: string): Position | undefined => {
  const dash = messageId.lastIndexOf("-")
  const offset = Number(messageId.slice(dash + 1))
  return dash > 0 && Number.isSafeInteger(offset) && offset > 0
    ? { epoch: messageId.slice(0, dash), offset }
    : undefined
}
