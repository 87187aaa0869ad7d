/**
 * One message to the user's handler: decode, run, retry, give up. A message that can't be handled becomes a dead letter
 * here and a failure in the ack, so that its sender gets one too.
 */
import { Cause, Effect, Exit, type Schedule } from "effect"
import { defaultMessageId } from "../../core/Outbox.ts"
import type { FailureReason } from "../../core/Protocol.ts"
import { detailOf, rejectionOf } from "../../core/Text.ts"
import type { Incoming, MessageGap } from "../../Message.ts"
import type { Recorder } from "../../Metrics.ts"
import { MessageRejected, PayloadError } from "../../WebSocketError.ts"
import { inWords, type RareLog } from "../kit/rareLog.ts"
import type { Tracing } from "../kit/traces.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Delivery } from "../session/incoming.ts"
import type { Peer } from "../session/peer.ts"
import { reasonOf } from "../session/receipts.ts"

export interface HandlingOptions<In, R> {
  /** Decodes a payload; the failure says why not. */
  readonly decode: (value: unknown) => Exit.Exit<In, unknown>
  readonly onMessage: (incoming: Incoming<In>, peer: Peer, delivery: Delivery) => Effect.Effect<unknown, unknown, R>
  readonly onGap: (gap: MessageGap) => Effect.Effect<unknown, unknown, R>
  /** What a handler must wait for before it starts, such as the store's word on the session; mostly undefined. */
  readonly beforeHandling?: ((peer: Peer) => Effect.Effect<void> | undefined) | undefined
  /** What to do when the store refused a handler's own commit; such a handler is not retried. */
  readonly verdict?: ((peer: Peer) => Effect.Effect<"done" | "again">) | undefined
  /** Given what the handler failed with. */
  readonly retry: Schedule.Schedule<unknown, unknown, never, R>
  /** Whether a shutdown may have caused a failure. */
  readonly isClosing: () => boolean
  readonly tracing: Tracing
  /** A message is left to be handled again later, so nobody need wait for it. */
  readonly onHeld: (peer: Peer) => void
  readonly recorder: Recorder
  readonly rare: RareLog
  readonly deadLetters: Pick<DeadLetters<In>, "incoming">
}

export interface Handling<R> {
  /** Handles a delivery. If that fails, `recover` is next. */
  readonly handle: (peer: Peer, delivery: Delivery) => Effect.Effect<unknown, unknown, R>
  /** Deals with a delivery whose first attempt failed. */
  readonly recover: (peer: Peer, delivery: Delivery, cause: Cause.Cause<unknown>) => Effect.Effect<void, never, R>
}

export const makeHandling = <In, R>(options: HandlingOptions<In, R>): Handling<R> => {
  const { recorder } = options
  const { giveUp, undecodable } = failuresOf(options)

  /** The handler's effect; what it throws is a defect of it. */
  const call = (incoming: Incoming<In>, peer: Peer, delivery: Delivery): Effect.Effect<unknown, unknown, R> => {
    try {
      return options.onMessage(incoming, peer, delivery)
    } catch (defect) {
      return Effect.die(defect)
    }
  }

  const attempt = (incoming: Incoming<In>, peer: Peer, delivery: Delivery, number: number) => {
    const effect = call(incoming, peer, delivery)
    return incoming.trace === undefined ? effect : options.tracing.handling(effect, incoming, number)
  }

  const handleGap = (peer: Peer, gap: Extract<Delivery, { kind: "gap" }>): Effect.Effect<void, never, R> =>
    Effect.suspend(() =>
      options.onGap({ session: peer.session, count: gap.offset - gap.first + 1, reason: gap.reason })
    ).pipe(
      Effect.catchCause((cause) => Effect.sync(() => options.rare.error("onGap", `onGap failed: ${inWords(cause)}`))),
      Effect.asVoid
    )

  const { beforeHandling = () => undefined } = options

  const handle = (peer: Peer, delivery: Delivery): Effect.Effect<unknown, unknown, R> => {
    const unsure = beforeHandling(peer)
    return unsure === undefined
      ? handleOwn(peer, delivery)
      : Effect.andThen(unsure, Effect.suspend(() => handle(peer, delivery)))
  }

  const handleOwn = (peer: Peer, delivery: Delivery): Effect.Effect<unknown, unknown, R> => {
    if (delivery.kind === "gap") return handleGap(peer, delivery)
    const decoded = options.decode(delivery.value)
    if (Exit.isFailure(decoded)) return undecodable(peer, delivery, decoded.cause)
    return attempt(incomingOf(decoded.value, peer.session, delivery), peer, delivery, 1)
  }

  /** Leaves the message as it is, neither handled nor failed, until the shutdown interrupts this. */
  const hold = (peer: Peer): Effect.Effect<never> =>
    Effect.suspend(() => {
      peer.incoming.held()
      options.onHeld(peer)
      return Effect.never
    })

  /** Retries on the schedule, then gives up. */
  const recover = (
    peer: Peer,
    delivery: Delivery,
    firstCause: Cause.Cause<unknown>
  ): Effect.Effect<void, never, R> => {
    if (delivery.kind === "gap") return Effect.void
    const decoded = options.decode(delivery.value)
    if (Exit.isFailure(decoded)) return undecodable(peer, delivery, decoded.cause)
    const incoming = incomingOf(decoded.value, peer.session, delivery)
    const isRefused = () => peer.incoming.isRefused(delivery)
    let attempts = 0
    /** Whether another attempt may do better. A defect is no failure, and never tried again. */
    const mayRetry = (error: unknown) => !isRefused() && !(error instanceof MessageRejected)
    return Effect.suspend(() => {
      peer.incoming.attemptEnded()
      if (attempts++ === 0) return Effect.failCause(firstCause)
      recorder.count("retriesTried")
      const unsure = beforeHandling(peer)
      return unsure === undefined
        ? attempt(incoming, peer, delivery, attempts)
        : Effect.andThen(unsure, Effect.suspend(() => attempt(incoming, peer, delivery, attempts)))
    }).pipe(
      Effect.retry({ schedule: options.retry, while: mayRetry }),
      Effect.matchCauseEffect({
        onSuccess: () => Effect.sync(() => recorder.count("retriesSucceeded")),
        onFailure: (cause) => {
          if (isRefused() && options.verdict !== undefined) {
            return Effect.flatMap(
              options.verdict(peer),
              (verdict) => verdict === "done" ? Effect.void : recover(peer, delivery, cause)
            )
          }
          const error = Cause.squash(cause)
          if (error instanceof MessageRejected) {
            return giveUp(peer, delivery, rejectionOf(error.detail), incoming.message, error)
          }
          if (delivery.kind === "message" && options.isClosing()) return hold(peer)
          recorder.count("retriesFailed")
          return giveUp(peer, delivery, "failed", incoming.message, error)
        }
      })
    )
  }

  return { handle, recover }
}

/** Messages that are given up: a dead letter here, and a failure in the ack. */
const failuresOf = <In, R>({ deadLetters }: HandlingOptions<In, R>) => {
  const giveUp = (
    peer: Peer,
    delivery: Delivery,
    reason: FailureReason,
    message: In | undefined,
    cause: unknown
  ): Effect.Effect<void> => {
    if (delivery.kind === "message" && delivery.epoch === peer.core.inbox.epoch) {
      peer.core.inbox.fail(delivery.offset, reason)
    }
    return deadLetters.incoming({
      session: peer.session,
      messageId: idOf(delivery),
      reason: reasonOf(reason),
      detail: detailOf(reason),
      message,
      payload: delivery.kind === "gap" ? undefined : delivery.value,
      cause
    })
  }

  const undecodable = (peer: Peer, delivery: Delivery, cause: Cause.Cause<unknown>): Effect.Effect<void> => {
    const detail = String(Cause.squash(cause))
    const error = new PayloadError({ direction: "decode", detail, session: peer.session })
    return giveUp(peer, delivery, "undecodable", undefined, error)
  }

  return { giveUp, undecodable }
}

const incomingOf = <A>(message: A, session: string, delivery: Exclude<Delivery, { kind: "gap" }>): Incoming<A> => ({
  message,
  session,
  messageId: idOf(delivery),
  volatile: delivery.kind === "loose" && delivery.volatile,
  trace: delivery.trace
})

const idOf = (delivery: Delivery): string | undefined =>
  delivery.kind === "message" ? delivery.id ?? defaultMessageId(delivery.epoch, delivery.offset) : undefined
