/** Where dead letters go: counted, logged, and kept for whoever subscribes, the newest 1,024 also after the fact. */
import { Clock, Effect, PubSub, Stream } from "effect"
import type { OutboxMessage } from "../core/Outbox.ts"
import { defaultMessageId } from "../core/Outbox.ts"
import type { DeadLetter } from "../Message.ts"
import type { Recorder } from "../Metrics.ts"
import type { DeadLetterReason } from "../WebSocketError.ts"
import type { Peer } from "./peer.ts"

/** How many dead letters a subscriber may fall behind, and how many are kept for a late one. */
const kept = 1_024

export interface DeadLetters<A> {
  readonly stream: Stream.Stream<DeadLetter<A>>
  readonly publish: (letter: Omit<DeadLetter<A>, "atMillis">) => Effect.Effect<void>
  /** Messages of an outbox that were given up, the first `maybeHandled` of them perhaps handled. */
  readonly outgoing: (
    session: string,
    peer: Peer | undefined,
    epoch: string,
    messages: ReadonlyArray<OutboxMessage>,
    reason: DeadLetterReason,
    maybeHandled: number
  ) => Effect.Effect<void>
}

export const makeDeadLetters = Effect.fnUntraced(function*<A>(options: {
  readonly recorder: Recorder
  /** Decodes an outgoing payload back to the message; undefined when it can't. */
  readonly decode: (value: unknown) => A | undefined
}) {
  const { recorder } = options
  const clock = yield* Clock.Clock
  const hub = yield* PubSub.sliding<DeadLetter<A>>({ capacity: kept, replay: kept })
  yield* Effect.addFinalizer(() => PubSub.shutdown(hub))

  const publish = Effect.fnUntraced(function*(letter: Omit<DeadLetter<A>, "atMillis">) {
    recorder.count("deadLetters")
    yield* Effect.logWarning(
      `dead letter (${letter.direction}, ${letter.reason}): message ${
        letter.messageId ?? "without id"
      } of session ${letter.session}`
    )
    yield* PubSub.publish(hub, { ...letter, atMillis: clock.currentTimeMillisUnsafe() })
  })

  const outgoing: DeadLetters<A>["outgoing"] = Effect.fnUntraced(
    function*(session, peer, epoch, messages, reason, maybeHandled) {
      if (reason === "expired") recorder.count("messagesExpired", messages.length)
      for (const [index, message] of messages.entries()) {
        const maybe = index < maybeHandled
        peer?.receipts.died(message.offset, { reason, maybeHandled: maybe })
        const payload: unknown = JSON.parse(message.payload)
        yield* publish({
          direction: "out",
          session,
          messageId: message.id ?? defaultMessageId(epoch, message.offset),
          reason,
          message: options.decode(payload),
          payload,
          maybeHandled: maybe,
          cause: undefined
        })
      }
    }
  )

  const self: DeadLetters<A> = { stream: Stream.fromPubSub(hub), publish, outgoing }
  return self
})
