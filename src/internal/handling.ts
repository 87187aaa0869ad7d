/**
 * From a delivery to the user's handler: decode, run, retry, give up. What comes out never fails: a message that can't
 * be handled becomes a dead letter here and a failure in the ack, so that its sender gets one too.
 */
import { Cause, Effect, Exit, type Schedule, Tracer } from "effect"
import { defaultMessageId } from "../core/Outbox.ts"
import type { Incoming, MessageGap } from "../Message.ts"
import type { Recorder } from "../Metrics.ts"
import { PayloadError } from "../WebSocketError.ts"
import type { DeadLetters } from "./deadLetters.ts"
import type { Delivery, Peer } from "./peer.ts"

export interface HandlingOptions<In> {
  /** Decodes a payload; the failure says why not. */
  readonly decode: (value: unknown) => Exit.Exit<In, unknown>
  readonly onMessage: (incoming: Incoming<In>, peer: Peer) => Effect.Effect<unknown, unknown>
  readonly onGap: (gap: MessageGap) => Effect.Effect<unknown, unknown>
  readonly retry: Schedule.Schedule<unknown, unknown>
  readonly recorder: Recorder
  readonly deadLetters: Pick<DeadLetters<In>, "incoming">
}

export const makeHandling = <In>(options: HandlingOptions<In>) => {
  const { deadLetters, recorder } = options

  /** The handler's effect; what it throws is a defect of it. */
  const call = (incoming: Incoming<In>, peer: Peer): Effect.Effect<unknown, unknown> => {
    try {
      return options.onMessage(incoming, peer)
    } catch (defect) {
      return Effect.die(defect)
    }
  }

  const giveUp = (
    peer: Peer,
    delivery: Delivery,
    reason: "failed" | "undecodable",
    message: In | undefined,
    cause: unknown
  ): Effect.Effect<void> => {
    if (delivery.kind === "message" && delivery.epoch === peer.core.inbox.epoch) {
      peer.core.inbox.fail(delivery.offset, reason)
    }
    return deadLetters.incoming({
      session: peer.session,
      messageId: idOf(delivery),
      reason,
      message,
      payload: delivery.kind === "gap" ? undefined : delivery.value,
      cause
    })
  }

  /** The first attempt failed: retry on the schedule, then give up. */
  const retry = (
    peer: Peer,
    delivery: Delivery,
    incoming: Incoming<In>,
    firstCause: Cause.Cause<unknown>
  ): Effect.Effect<void> => {
    let attempts = 0
    return Effect.suspend(() => {
      if (attempts++ === 0) return Effect.failCause(firstCause)
      recorder.count("retriesTried")
      return call(incoming, peer)
    }).pipe(
      Effect.sandbox,
      Effect.retry(options.retry),
      Effect.matchEffect({
        onSuccess: () => Effect.sync(() => recorder.count("retriesSucceeded")),
        onFailure: (cause) => {
          recorder.count("retriesFailed")
          return giveUp(peer, delivery, "failed", incoming.message, Cause.squash(cause))
        }
      })
    )
  }

  const traced = (effect: Effect.Effect<unknown, unknown>, trace: string): Effect.Effect<unknown, unknown> => {
    const parent = parseTraceparent(trace)
    return parent === undefined
      ? effect
      : Effect.withSpan(effect, "resilient-websocket.handle", { parent, kind: "consumer" })
  }

  const handleGap = (peer: Peer, gap: Extract<Delivery, { kind: "gap" }>): Effect.Effect<void> =>
    Effect.suspend(() =>
      options.onGap({ session: peer.session, count: gap.offset - gap.first + 1, reason: gap.reason })
    ).pipe(
      Effect.catchCause((cause) => Effect.logError("onGap failed", cause)),
      Effect.asVoid
    )

  /** Handles one delivery. An effect that is already done costs no fiber step. */
  return (peer: Peer, delivery: Delivery): Effect.Effect<void> => {
    if (delivery.kind === "gap") return handleGap(peer, delivery)
    const decoded = options.decode(delivery.value)
    if (Exit.isFailure(decoded)) {
      const detail = String(Cause.squash(decoded.cause))
      const error = new PayloadError({ direction: "decode", detail, session: peer.session })
      return giveUp(peer, delivery, "undecodable", undefined, error)
    }
    const incoming: Incoming<In> = {
      message: decoded.value,
      session: peer.session,
      messageId: idOf(delivery),
      volatile: delivery.kind === "loose" && delivery.volatile
    }
    const called = call(incoming, peer)
    const effect = delivery.kind === "message" && delivery.trace !== undefined ? traced(called, delivery.trace) : called
    if (Exit.isExit(effect) && Exit.isSuccess(effect)) return Effect.void
    return Effect.catchCause(effect, (cause) => retry(peer, delivery, incoming, cause)) as Effect.Effect<void>
  }
}

const idOf = (delivery: Delivery): string | undefined =>
  delivery.kind === "message" ? delivery.id ?? defaultMessageId(delivery.epoch, delivery.offset) : undefined

/** W3C Trace Context, version 00. */
const parseTraceparent = (text: string): Tracer.ExternalSpan | undefined => {
  const [, traceId, spanId, flags] = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(text) ?? []
  if (traceId === undefined || spanId === undefined || flags === undefined) return undefined
  return Tracer.externalSpan({ traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 })
}
