/** Takes a server's connections, from its transport or from `register`, through the handshake; plain ones have none. */
import { Effect, Exit, Random } from "effect"
import { decode } from "../../core/Codec.ts"
import type { Frame } from "../../core/Frame.ts"
import { subprotocol } from "../../core/Protocol.ts"
import { maxHandshakeBytes } from "../../core/Session.ts"
import { Violation } from "../../core/Violation.ts"
import type { Connection, ConnectionSink } from "../../Transport.ts"
import { type AcceptError, type HandshakeError, ProtocolError, TransportError } from "../../WebSocketError.ts"
import type { Ids } from "../kit/ids.ts"
import { type ContractName, type Handshake, identityFault, type Name } from "../session/identity.ts"
import type { Peer } from "../session/peer.ts"
import type { AttachingOptions } from "./attaching.ts"
import { makeAuthenticating, type Wanted } from "./authenticating.ts"
import { closing, goneEarly, Handshakes, type HandshakesOptions, whenMissed } from "./handshakes.ts"
import { HandshakeSink } from "./handshakeSink.ts"
import { protocolError } from "./rejection.ts"
import { makeTurns } from "./turns.ts"
import { Welcoming } from "./welcoming.ts"

export interface AcceptorOptions extends AttachingOptions, HandshakesOptions {
  readonly authenticate: (handshake: Handshake) => Effect.Effect<Name, HandshakeError>
  readonly acceptPlain: boolean
  readonly contract: ContractName | undefined
  readonly heartbeatMillis: number
  readonly jitterMillis: number
  readonly isClosing: () => boolean
  /** `resumed` says whether the session went on, or began anew. */
  readonly onAttached: (peer: Peer, resumed: boolean) => void
}

/** How many handshakes begin in one turn of the event loop: a few milliseconds' work for a cold process. */
const handshakesATurn = 8

export const makeAcceptor = Effect.fnUntraced(function*(options: AcceptorOptions) {
  const random = yield* Random.Random
  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  return new Acceptor(options, random, (task) => dispatcher.scheduleTask(task, 0))
})

class Acceptor {
  private readonly options: AcceptorOptions
  private readonly handshakes: Handshakes
  private readonly welcoming: Welcoming
  /** Begins a handshake, a few in each turn of the event loop. */
  private readonly inTurn: (share: string, begin: () => void) => void
  private arrivals = 0

  constructor(options: AcceptorOptions, random: Ids, later: (task: () => void) => void) {
    this.options = options
    this.handshakes = new Handshakes(options)
    const { authenticate, nameOf } = makeAuthenticating({
      authenticate: options.authenticate,
      rare: options.rare,
      timeoutMillis: options.handshakeTimeoutMillis,
      late: this.handshakes.late
    })
    this.welcoming = new Welcoming({ ...options, handshakes: this.handshakes, authenticate, nameOf, random })
    this.inTurn = makeTurns(handshakesATurn, later)
  }

  /** Takes a connection that the transport has accepted. */
  accept(connection: Connection): void {
    const { handshakes } = this
    this.options.recorder.count("connectionsTotal")
    if (this.options.isClosing()) return handshakes.refuse(connection, closing)
    const share = this.options.shareOf({ ...connection.request, principal: undefined }) ?? ""
    if (!handshakes.hasRoom(share)) return handshakes.refuse(connection, handshakes.tooMany)
    if (connection.protocol !== subprotocol) return this.acceptPlain(connection, share, undefined)
    const arrival = ++this.arrivals
    handshakes.awaitsHello(connection)
    let heard = false
    const first: ConnectionSink = {
      frame: (data, bytes) => {
        if (handshakes.isRefused(connection)) return
        if (heard) return handshakes.step(connection, Effect.fail(malformed("a frame before the welcome")))
        heard = true
        handshakes.heard(connection)
        const frame = decodeFirst(data, bytes)
        if (frame instanceof Violation) return handshakes.step(connection, Effect.fail(protocolError(frame)))
        if (frame.t !== "hello") {
          return handshakes.step(connection, Effect.fail(malformed(`${frame.t} instead of hello`)))
        }
        this.inTurn(share, () => {
          if (handshakes.isPending(connection)) {
            handshakes.step(connection, this.welcoming.welcome(connection, frame, sink, arrival))
          }
        })
      },
      drained: noop,
      alive: noop,
      closed: () => {
        handshakes.tellOfSilence(connection)
        handshakes.settle(connection, Exit.fail(heard ? goneEarly : goneUnheard))
        if (handshakes.isDone(connection)) this.options.recorder.count("connectionsFailed")
      }
    }
    handshakes.expect(connection, share)
    const sink = new HandshakeSink(connection, first)
  }

  private acceptPlain(connection: Connection, share: string, session: string | undefined): void {
    if (!this.options.acceptPlain) {
      return this.handshakes.refuse(connection, malformed(`the subprotocol ${subprotocol} is required`))
    }
    this.handshakes.expect(connection, share)
    const closed = () => void this.handshakes.isDone(connection)
    const sink = new HandshakeSink(connection, { frame: noop, drained: noop, alive: noop, closed })
    connection.pause()
    const attaching = Effect.gen({ self: this }, function*() {
      const peer = yield* this.welcoming.attachPlain(connection, session, sink)
      if (this.handshakes.isDone(connection)) this.read(peer, connection)
      else this.options.engine.detach(peer, { code: 1006, reason: "", error: undefined })
    })
    this.inTurn(share, () => {
      if (this.handshakes.isPending(connection)) this.handshakes.step(connection, attaching)
    })
  }

  /** Starts reading, unless the session must wait because it holds too much already. */
  private read(peer: Peer, connection: Connection): void {
    if (peer.reading.stopped === 0) connection.resume()
  }

  /** For a connection that speaks the protocol: accepts it at once, and waits for its handshake. */
  private registerHandshake(connection: Connection, session: Wanted) {
    return Effect.callback<string, AcceptError>((resume) => {
      this.handshakes.registered(connection, { session, settle: resume })
      this.accept(connection)
      return Effect.sync(() => {
        this.handshakes.unregistered(connection)
        connection.terminate()
      })
    })
  }

  /** Takes a connection that somebody else accepted, perhaps with the session that it is for. */
  readonly register = Effect.fnUntraced(
    function*(this: Acceptor, connection: Connection, session: Wanted): Effect.fn.Return<string, AcceptError> {
      if (this.options.isClosing()) return yield* closing
      const fault = Effect.isEffect(session) ? undefined : identityFault({ session })
      if (fault !== undefined) return yield* fault
      if (taken.has(connection)) return yield* takenAlready
      taken.add(connection)
      const isPlain = connection.protocol !== subprotocol
      if (connection.missed === true) {
        this.options.rare.error("missed", `messages of a socket that was registered are lost. ${whenMissed}`)
        if (!isPlain) {
          this.handshakes.refuse(connection, missedHello)
          return yield* missedHello
        }
      }
      if (!isPlain) return yield* this.registerHandshake(connection, session)
      if (!this.options.acceptPlain) return yield* malformed(`the subprotocol ${subprotocol} is required`)
      this.options.recorder.count("connectionsTotal")
      let gone = false
      const sink = new HandshakeSink(connection, {
        frame: noop,
        drained: noop,
        alive: noop,
        closed: () => void (gone = true)
      })
      connection.pause() // what comes before the session is attached waits in the socket
      const peer = yield* Effect.onError(
        this.welcoming.attachPlain(connection, session, sink),
        () => Effect.sync(() => connection.resume())
      )
      this.read(peer, connection)
      if (gone) this.options.engine.detach(peer, { code: 1006, reason: "", error: undefined })
      return peer.session
    }
  )

  tick(now: number): void {
    this.handshakes.tick(now)
  }

  /** Turns away connections whose handshake is not done. */
  close(): void {
    this.handshakes.close()
  }
}

const noop = (): void => {}

const decodeFirst = (data: string | Uint8Array, bytes: number): Frame | Violation => {
  if (bytes > maxHandshakeBytes) return new Violation("tooLarge", `a hello of ${bytes} bytes`)
  return typeof data === "string" ? decode(data) : new Violation("malformed", "a binary frame")
}

const registerError = (detail: string) => new TransportError({ operation: "register", detail })

/** Connections that were registered, with any server: each can be registered only once. */
const taken = new WeakSet<Connection>()
const takenAlready = registerError("the connection was registered before, here or elsewhere: take its socket over anew")

const missedHello = registerError(`its first message was missed. ${whenMissed}`)
const goneUnheard = registerError(`the connection was gone, and had said no hello. ${whenMissed}`)

const malformed = (detail: string) => new ProtocolError({ code: "unexpected", detail })
