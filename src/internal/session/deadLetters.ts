/**
 * Dead letters: counted, and kept for subscribers. Late subscribers get the newest 1,024, of at most 16 MiB. A full
 * queue that drops its oldest can make a million a second, so each is cheap until somebody looks into it. The heartbeat
 * worker logs how many there were.
 */
import { Effect, Exit, type Stream } from "effect"
import type { OutboxMessage } from "../../core/Outbox.ts"
import { defaultMessageId } from "../../core/Outbox.ts"
import type { FateReason } from "../../core/Protocol.ts"
import { detailOf } from "../../core/Text.ts"
import type { DeadLetter } from "../../Message.ts"
import type { Recorder } from "../../Metrics.ts"
import type { DeadLetterReason } from "../../WebSocketError.ts"
import { type Events, makeEvents } from "../kit/events.ts"
import { Observers } from "../kit/listeners.ts"
import type { Coder } from "../kit/schemas.ts"
import { wall } from "../kit/time.ts"
import { memoryOf } from "../kit/weight.ts"
import type { Peer } from "./peer.ts"
import { reasonOf } from "./receipts.ts"
import type { RemoteProgress } from "./remoteProgress.ts"

/** How many dead letters are kept for a late subscriber. */
const kept = 1_024
/** Memory that kept dead letters may take, in bytes; a subscriber that is behind may take as much again. */
const keptBytes = 16 * 1024 * 1024

export interface DeadLetters<A> {
  readonly stream: Stream.Stream<DeadLetter<A>>
  readonly events: Events<DeadLetter<A>>
  /** A message that arrived and could not be handled. */
  readonly incoming: (letter: Omit<DeadLetter<A>, "atMillis" | "direction" | "maybeHandled">) => Effect.Effect<void>
  /** Messages of an outbox that were given up; the first `maybeHandled` of them may have been handled. */
  readonly outgoing: (
    session: string,
    peer: Peer | undefined,
    epoch: string,
    messages: ReadonlyArray<OutboxMessage>,
    reason: FateReason,
    maybeHandled: number
  ) => Effect.Effect<void>
  /** From now on `remoteProgress` learns what was given up, too. */
  readonly tell: (remoteProgress: Pick<RemoteProgress, "dying">) => void
}

const letterBytes = 512

export const makeDeadLetters = Effect.fnUntraced(function*<In, Out>(options: {
  /** Decodes messages of this side that were given up, when somebody asks for them. */
  readonly outgoing: Pick<Coder<Out>, "decode">
  readonly recorder: Recorder
}) {
  const { outgoing: coder, recorder } = options
  const observe = (yield* Observers).deadLetter
  const now = yield* wall
  const decode = (value: unknown): Out | undefined => {
    const decoded = coder.decode(value)
    return Exit.isSuccess(decoded) ? decoded.value : undefined
  }
  const events = yield* makeEvents<DeadLetter<In | Out>>({ replay: kept, maxBytes: keptBytes, bytesOf })

  let remoteProgress: Pick<RemoteProgress, "dying"> | undefined

  const publish = (letter: DeadLetter<In | Out>): void => {
    recorder.count("deadLetters")
    events.publish(letter)
    observe?.(letter)
  }

  const outgoing: DeadLetters<In | Out>["outgoing"] = (session, peer, epoch, messages, reason, maybeHandled) =>
    Effect.sync(() => {
      if (reason === "expired") recorder.count("messagesExpired", messages.length)
      const atMillis = now()
      const tellRemote = remoteProgress?.dying(session, epoch)
      for (let i = 0; i < messages.length; i++) {
        const message = messages[i] as OutboxMessage // in bounds
        const maybe = i < maybeHandled
        const dead = { reason, maybeHandled: maybe }
        peer?.receipts.died(message.offset, dead)
        tellRemote?.(message.offset, dead)
        const messageId = message.id ?? defaultMessageId(epoch, message.offset)
        publish(new Returned(message.payload, decode, session, messageId, reason, maybe, atMillis))
      }
    })

  const incoming: DeadLetters<In | Out>["incoming"] = (letter) =>
    Effect.sync(() => publish({ ...letter, direction: "in", maybeHandled: false, atMillis: now() }))

  const self: DeadLetters<In | Out> = {
    get stream() {
      return events.stream
    },
    events,
    incoming,
    outgoing,
    tell: (those) => (remoteProgress = those)
  }
  return self
})

/** An incoming dead letter may hold its payload twice: as parsed and as decoded. */
const bytesOf = <A>(letter: DeadLetter<A>): number =>
  letter instanceof Returned ? letter.bytes : letterBytes + 2 * memoryOf(letter.payload)

/** A message of ours that was given up. Its payload is parsed only when somebody asks for it. */
class Returned<A> implements DeadLetter<A> {
  readonly direction = "out"
  readonly session: string
  readonly messageId: string
  readonly reason: DeadLetterReason
  readonly detail: string | undefined
  readonly maybeHandled: boolean
  readonly atMillis: number
  readonly cause = undefined
  private readonly text: string
  private readonly decode: (value: unknown) => A | undefined

  constructor(
    text: string,
    decode: (value: unknown) => A | undefined,
    session: string,
    messageId: string,
    reason: FateReason,
    maybeHandled: boolean,
    atMillis: number
  ) {
    this.text = text
    this.decode = decode
    this.session = session
    this.messageId = messageId
    this.detail = detailOf(reason)
    this.reason = reasonOf(reason)
    this.maybeHandled = maybeHandled
    this.atMillis = atMillis
  }

  /** In memory. */
  get bytes(): number {
    return letterBytes + 2 * this.text.length
  }

  get payload(): unknown {
    return JSON.parse(this.text)
  }

  get message(): A | undefined {
    return this.decode(this.payload)
  }
}
