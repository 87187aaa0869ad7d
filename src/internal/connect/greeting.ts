/** The client's half of the handshake (PROTOCOL.md §4): sends hello, takes the welcome, and agrees on positions. */
import { Deferred, Effect, Exit } from "effect"
import { decode, encode } from "../../core/Codec.ts"
import type { Hello, OutboxPosition, Welcome } from "../../core/Frame.ts"
import { version } from "../../core/Protocol.ts"
import { maxHandshakeBytes, resumeInbox, resumeOutbox } from "../../core/Session.ts"
import { utf8Length } from "../../core/utf8.ts"
import { Violation } from "../../core/Violation.ts"
import type { MessageQueue } from "../../MessageQueue.ts"
import type { Connection } from "../../Transport.ts"
import { HandshakeError } from "../../WebSocketError.ts"
import type { Engine } from "../run/engine.ts"
import type { DeadLetters } from "../session/deadLetters.ts"
import type { Agreement } from "../session/link.ts"
import type { Peer } from "../session/peer.ts"
import { breach, closedBeforeWelcome, failed, type Failure, rejectionError } from "./endings.ts"
import { HandshakeSink } from "./handshakeSink.ts"

/** The generation of a client's outbox. It never changes, as nobody else writes to it. */
export const ownGeneration = 1

export interface GreetingOptions {
  readonly engine: Engine
  readonly peer: Peer
  readonly queue: MessageQueue["Service"]
  readonly deadLetters: Pick<DeadLetters<unknown>, "outgoing">
  readonly instance: string
  readonly contract: Hello["contract"] | undefined
  /** Asks for the token, with its time limit. */
  readonly token: Effect.Effect<string | undefined, Failure>
  readonly onFresh: "deadLetter" | "resend"
  readonly onDrain: (window: number, endpoint: string | undefined) => void
}

/** All handshakes of one client. Keeps the credentials that resume its session. */
export class Greeting {
  private readonly options: GreetingOptions
  private dials = 0
  private resume: { readonly session: string; readonly token: string } | undefined

  constructor(options: GreetingOptions) {
    this.options = options
  }

  /** The next connection begins a new session. */
  forget(): void {
    this.resume = undefined
  }

  /** What a frame other than a welcome means. */
  private refusal(frame: Exclude<ReturnType<typeof decode>, Welcome>): Failure {
    switch (frame.t) {
      case "reject":
        return failed(rejectionError(frame))
      case "drain":
        this.options.onDrain(frame.window, frame.endpoint)
        return failed(rejectionError({ t: "reject", code: "draining", detail: "the server is leaving" }))
      case "violation":
        return breach(frame)
      default:
        return breach(new Violation("unexpected", `${frame.t} instead of welcome`))
    }
  }

  /** Opens the connection and says hello; ends with the server's welcome. */
  readonly greet = Effect.fnUntraced(
    function*(
      this: Greeting,
      connection: Connection,
      out: OutboxPosition,
      answer: Deferred.Deferred<Welcome, Failure>
    ) {
      const settle = (exit: Exit.Exit<Welcome, Failure>) => Deferred.doneUnsafe(answer, exit)
      const sink = new HandshakeSink(connection, {
        frame: (data) => {
          const frame = typeof data === "string" ? decode(data) : new Violation("malformed", "a binary frame")
          // If the welcome was lost, the server may probe before this side gives up.
          if (frame.t === "ping") return
          sink.hold()
          settle(frame.t === "welcome" ? Exit.succeed(frame) : Exit.fail(this.refusal(frame)))
        },
        drained: noop,
        alive: noop,
        closed: (code, reason) => settle(Exit.fail(closedBeforeWelcome(code, reason)))
      })
      const auth = yield* this.options.token
      const { contract, peer: { core } } = this.options
      const hello: Hello = {
        t: "hello",
        version,
        ...(this.resume === undefined ? {} : { session: this.resume.session, token: this.resume.token }),
        instance: this.options.instance,
        attempt: ++this.dials,
        ...(auth === undefined ? {} : { auth }),
        ...(contract === undefined ? {} : { contract }),
        out,
        in: core.inbox.announced,
        window: core.options.window,
        maxPayload: core.options.maxPayload
      }
      const text = encode(hello)
      if (utf8Length(text) > maxHandshakeBytes) return yield* Effect.fail(failed(helloTooLarge))
      connection.send(text)
      const welcome = yield* Deferred.await(answer)
      return { welcome, sink, announced: hello.in.handled }
    }
  )

  /** Takes over the welcome's positions and credentials. */
  readonly agree = Effect.fnUntraced(
    function*(this: Greeting, welcome: Welcome, out: OutboxPosition, announced: number) {
      const { deadLetters, engine, peer, queue } = this.options
      const { core } = peer
      const resumedOut = resumeOutbox(out, welcome.in)
      if (resumedOut instanceof Violation) return yield* Effect.fail(breach(resumedOut))
      if (!resumedOut.continued) {
        return yield* Effect.fail(breach(new Violation("malformed", "the welcome is for another log")))
      }
      // First settle what the server has handled: it must not become dead letters below.
      peer.outgoing.acknowledged(resumedOut.position.handled, resumedOut.position.failed)
      yield* Effect.mapError(engine.tellAcks(peer), failed)
      // Before our position shows that we know: if this is interrupted, the server tells us again.
      if (!welcome.continued.in && this.options.onFresh === "deadLetter") {
        const given = yield* Effect.mapError(queue.giveBackSent(peer.key, ownGeneration), failed)
        yield* deadLetters.outgoing(peer.session, peer, peer.epoch, given, "fresh", given.length)
      }
      if (!welcome.continued.out) {
        // In the same log, another instance is ahead: what waits here was handled there, or comes again.
        if (core.inbox.epoch === welcome.out.epoch) engine.forfeit(peer)
        core.inbox.adopt(welcome.out.epoch, welcome.out.acked)
      } else if (resumeInbox(core.inbox, welcome.out) !== true) {
        return yield* Effect.fail(breach(new Violation("malformed", "the welcome goes on where we are not")))
      }
      this.resume = { session: welcome.session, token: welcome.token }
      peer.session = welcome.session
      const agreement: Agreement = {
        window: welcome.window,
        position: resumedOut.position,
        announced: welcome.continued.out ? announced : core.inbox.handled,
        maxPayload: welcome.maxPayload
      }
      return agreement
    }
  )
}

const noop = (): void => {}

const helloTooLarge = new HandshakeError({
  reason: "invalid",
  detail: "the hello is too large",
  retryable: false
})
