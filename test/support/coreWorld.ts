/**
 * Two session cores with their outboxes, and a network between them that loses what it likes. Each side is driven as
 * the shells drive it; a ledger for each direction holds what happened against the promise.
 */
import { decode, encode } from "../../src/core/Codec.ts"
import type { Hello, Welcome } from "../../src/core/Frame.ts"
import { Outbox, type OutboxMessage } from "../../src/core/Outbox.ts"
import { bulkFrameBytes, version, type Window } from "../../src/core/Protocol.ts"
import { type Action, resumeInbox, resumeOutbox, Session } from "../../src/core/Session.ts"
import { utf8Length } from "../../src/core/utf8.ts"
import { Violation } from "../../src/core/Violation.ts"
import { BrokenPromise, Ledger } from "./ledger.ts"

export type Role = "server" | "client"

const otherRole = (role: Role): Role => role === "server" ? "client" : "server"

/** A connection: the frames on their way to each side. */
interface Link {
  readonly to: Readonly<Record<Role, Array<string>>>
  cut: boolean
}

/** What was received and waits for the handler. */
export type Delivery =
  | {
    readonly kind: "message"
    readonly epoch: string
    readonly offset: number
    readonly value: number
    failed: boolean
  }
  | { readonly kind: "gap"; readonly epoch: string; readonly first: number; readonly offset: number }

export interface Side {
  readonly role: Role
  session: Session
  outbox: Outbox
  /** The connection that this side believes to have. */
  link: Link | undefined
  queue: Array<Delivery>
}

export interface WorldOptions {
  readonly windows: Readonly<Record<Role, Window>>
  /** How many messages an outbox holds; beyond, the oldest one that waits is dropped. */
  readonly bound: number
  /** What a side does with messages whose receiver lost its state; undefined when no side may. */
  readonly whenPeerLost: "giveBack" | "resend" | undefined
}

const maxPayload = 1000

/** What a payload carries, and what a dead letter is told by. */
const payloadOf = (value: number, size: number): string => JSON.stringify([value, "é".repeat(size)])
const valueOf = (payload: unknown): number => {
  const value: unknown = Array.isArray(payload) ? payload[0] : undefined
  if (typeof value !== "number") throw new BrokenPromise(`a strange payload: ${JSON.stringify(payload)}`)
  return value
}

const honest = <A>(result: A | Violation): A => {
  if (result instanceof Violation) {
    throw new BrokenPromise(`an honest side is accused of ${result.code}: ${result.detail}`)
  }
  return result
}

export class World {
  readonly options: WorldOptions
  readonly client: Side
  readonly server: Side
  /** By the role of the sender. */
  readonly ledgers: Readonly<Record<Role, Ledger>>
  now = 0
  /** Dialled by the client and not yet accepted by the server. */
  private dialled: Link | undefined
  /** What the last hello said was handled. */
  private announced = 0
  private epochs = 0

  constructor(options: WorldOptions) {
    this.options = options
    const expectations = {
      stateKept: options.whenPeerLost === undefined,
      mayRepeat: options.whenPeerLost === "resend"
    }
    this.ledgers = {
      client: new Ledger("client to server", expectations),
      server: new Ledger("server to client", expectations)
    }
    this.client = this.makeSide("client")
    this.server = this.makeSide("server")
  }

  side(role: Role): Side {
    return role === "client" ? this.client : this.server
  }

  // --- the application

  send(role: Role, count: number, size: number, ttl: number): void {
    const { outbox } = this.side(role)
    const ledger = this.ledgers[role]
    for (let i = 0; i < count; i++) {
      if (outbox.messages >= this.options.bound) {
        const dropped = outbox.dropOldest("overflow")
        if (dropped === undefined) return // refused: all of it may be at the peer
        this.bury(role, [dropped], "certainlyNotHandled")
      }
      const value = ledger.next
      const payload = payloadOf(value, size)
      const { offset } = outbox.append({
        payload,
        bytes: utf8Length(payload),
        id: value % 3 === 0 ? `é-${value}` : undefined,
        trace: value % 4 === 0 ? `ü-${value}` : undefined,
        enqueuedAt: this.now,
        expiresAt: ttl === 0 ? Infinity : this.now + ttl
      })
      ledger.accept(outbox.epoch, offset)
    }
  }

  /** The handler takes up to `count` of what waits, and they are settled together. */
  handle(role: Role, count: number): void {
    const side = this.side(role)
    const done = side.queue.splice(0, count)
    for (const epoch of new Set(done.map((delivery) => delivery.epoch))) {
      const part = done.filter((delivery) => delivery.epoch === epoch)
      part.forEach((delivery) => this.handled(role, delivery))
      this.settle(side, epoch, part.at(-1)?.offset ?? 0, part.filter(({ kind }) => kind === "message").length)
    }
  }

  /** The handler gives up on the next message, which is settled later. */
  fail(role: Role): void {
    const { queue, session } = this.side(role)
    const delivery = queue[0]
    if (delivery?.kind !== "message" || delivery.failed) return
    delivery.failed = true
    if (delivery.epoch === session.inbox.epoch) session.inbox.fail(delivery.offset, "failed")
  }

  expire(role: Role): void {
    this.bury(role, this.side(role).outbox.expire(this.now), "certainlyNotHandled")
  }

  // --- the network

  /** Writes what the peer's window takes, up to `messages`. */
  pump(role: Role, messages: number): void {
    const { outbox, session } = this.side(role)
    const { flow } = session
    if (flow === undefined) return
    const room = flow.roomBytes <= 0 ? 0 : flow.roomMessages
    const limit = { maxMessages: Math.min(messages, room), maxBytes: Math.min(bulkFrameBytes, flow.roomBytes) }
    const { expired, slots } = outbox.read(flow.sent, limit, this.now)
    this.bury(role, expired, "certainlyNotHandled")
    for (const frame of session.compose(slots, flow)) this.write(role, frame)
  }

  ack(role: Role): void {
    const { session } = this.side(role)
    const frame = session.flow === undefined ? undefined : session.composeAck()
    if (frame !== undefined) this.write(role, frame)
  }

  ping(role: Role): void {
    if (this.side(role).session.flow !== undefined) this.write(role, encode({ t: "ping" }))
  }

  /** The next `count` frames arrive. */
  deliver(role: Role, count: number): void {
    const side = this.side(role)
    for (let i = 0; i < count; i++) {
      const frame = side.link?.to[role].shift()
      if (frame === undefined) return
      if (side.session.flow === undefined) this.takeWelcome(frame)
      else for (const action of honest(side.session.receive(frame, utf8Length(frame)))) this.perform(side, action)
    }
  }

  /** The client dials, whatever it has: it may have noticed nothing, or that the server is silent. */
  connect(): void {
    const { client } = this
    this.hangUp(client)
    client.link = { to: { client: [], server: [] }, cut: false }
    this.dialled = client.link
    const hello: Hello = {
      t: "hello",
      version,
      instance: "i",
      out: client.outbox.position,
      in: client.session.inbox.position,
      window: this.options.windows.client,
      maxPayload
    }
    this.announced = hello.in.handled
    this.write("client", encode(hello))
  }

  /** The server takes the connection that was dialled last, in place of the one it has. */
  accept(): void {
    const link = this.dialled
    const text = link?.to.server.shift()
    if (link === undefined || text === undefined) return
    this.dialled = undefined
    const hello = decode(text)
    if (hello.t !== "hello") throw new BrokenPromise(`not a hello: ${text}`)
    const { server } = this
    this.hangUp(server)
    server.link = link
    const { inbox } = server.session
    const sameClient = honest(resumeInbox(inbox, hello.out))
    const { continued, position } = honest(resumeOutbox(server.outbox.position, hello.in))
    // A client that we know and that does not know our log never got the welcome that told it of that log, nor
    // anything after it. Any other that we can't continue with may have handled what it was sent.
    const neverHeard = sameClient && hello.in.epoch !== server.outbox.epoch
    this.takeUp("server", continued, neverHeard, position)
    server.session.open(hello.window, position, inbox.handled)
    const welcome: Welcome = {
      t: "welcome",
      result: "resumed",
      session: "s",
      token: "t",
      generation: 1,
      out: server.outbox.position,
      in: inbox.position,
      continued: { in: this.tellsContinued(sameClient, continued), out: continued },
      window: this.options.windows.server,
      maxPayload,
      heartbeat: 1,
      retention: 1,
      jitter: 1
    }
    this.write("server", encode(welcome))
  }

  /**
   * The connection breaks: so many frames arrive each way, the rest is lost, and those given notice it at once. The
   * others write into the void until they notice, or the client comes back.
   */
  cut(arrive: Readonly<Record<Role, number>>, noticed: ReadonlyArray<Role>): void {
    const link = this.client.link ?? this.server.link
    if (link === undefined) return
    if (this.dialled === link && arrive.server > 0) this.accept()
    for (const role of ["server", "client"] as const) {
      if (this.side(role).link === link) this.deliver(role, arrive[role])
    }
    link.cut = true
    link.to.client.length = 0
    link.to.server.length = 0
    for (const role of noticed) if (this.side(role).link === link) this.hangUp(this.side(role))
  }

  // --- crashes

  /** The process dies, and its successor has what the store kept: the outbox, and the position of the inbox. */
  restart(role: Role): void {
    const side = this.side(role)
    const { position } = side.session.inbox
    this.hangUp(side)
    side.queue = []
    side.session = this.makeSession(role)
    side.session.inbox.restore(position)
  }

  /** The process dies with all it knew. */
  loseState(role: Role): void {
    const side = this.side(role)
    this.hangUp(side)
    side.queue = []
    side.session = this.makeSession(role)
    side.outbox = this.makeOutbox(role)
    this.ledgers[role].senderLost()
    this.ledgers[otherRole(role)].receiverLost()
  }

  // --- the end

  /** The faults are over: everything must come to rest, and the promise be kept. */
  finish(): void {
    for (let round = 0; !this.atRest(); round++) {
      if (round > 40 + 4 * this.options.bound) throw new BrokenPromise("no progress")
      const { client, server } = this
      if (client.link === undefined || client.link.cut || client.link !== server.link) this.connect()
      this.accept()
      for (const role of ["client", "server"] as const) {
        this.deliver(role, Infinity)
        this.handle(role, Infinity)
        this.pump(role, Infinity)
        this.ack(role)
      }
    }
    for (const role of ["client", "server"] as const) {
      this.checkRest(this.side(role))
      this.ledgers[role].close()
    }
  }

  // --- what a broken shell or core would do otherwise: planted bugs override these

  protected makeSession(role: Role): Session {
    return new Session({ role, window: this.options.windows[role], maxPayload })
  }

  protected makeOutbox(role: Role): Outbox {
    return new Outbox(`${role}-${++this.epochs}`)
  }

  protected settle(side: Side, epoch: string, offset: number, messages: number): void {
    side.session.handled(epoch, offset, messages)
  }

  protected enqueue(side: Side, delivery: Delivery): void {
    side.queue.push(delivery)
  }

  /**
   * What the server tells the client of the client's log. It goes on only if the client knows this server's log: else
   * an earlier welcome, which said that the server had lost its state, was itself lost (PROTOCOL.md §4).
   */
  protected tellsContinued(sameClient: boolean, clientKnowsUs: boolean): boolean {
    return sameClient && clientKnowsUs
  }

  protected write(role: Role, frame: string): void {
    const { link } = this.side(role)
    if (link !== undefined && !link.cut) link.to[otherRole(role)].push(frame)
  }

  // --- the shell

  private makeSide(role: Role): Side {
    return { role, session: this.makeSession(role), outbox: this.makeOutbox(role), link: undefined, queue: [] }
  }

  private hangUp(side: Side): void {
    side.link = undefined
    side.session.close()
  }

  private takeWelcome(text: string): void {
    const welcome = decode(text)
    if (welcome.t !== "welcome") throw new BrokenPromise(`not a welcome: ${text}`)
    const { outbox, session } = this.client
    if (!welcome.continued.out) session.inbox.adopt(welcome.out.epoch, welcome.out.acked)
    else if (!honest(resumeInbox(session.inbox, welcome.out))) throw new BrokenPromise("continued what we have not")
    const { continued, position } = honest(resumeOutbox(outbox.position, welcome.in))
    this.takeUp("client", continued && welcome.continued.in, false, position)
    session.open(welcome.window, position, this.announced)
    if (position.failed.length > 0) this.write("client", encode({ t: "seen", o: position.handled }))
  }

  /** The peer's position is known, or known to be lost. */
  private takeUp(
    role: Role,
    continued: boolean,
    neverHeard: boolean,
    position: Parameters<typeof resumeOutbox>[1]
  ): void {
    const { outbox } = this.side(role)
    if (continued) this.release(role, position.handled, position.failed)
    else if (!neverHeard && this.options.whenPeerLost !== "resend") {
      this.bury(role, outbox.giveBackSent("fresh"), "maybeHandled")
    }
  }

  private perform(side: Side, action: Action): void {
    switch (action.t) {
      case "deliver":
        action.messages.forEach((payload, i) =>
          this.enqueue(side, {
            kind: "message",
            epoch: action.epoch,
            offset: action.first + i,
            value: valueOf(payload),
            failed: false
          })
        )
        return
      case "gap":
        return this.enqueue(side, { kind: "gap", epoch: action.epoch, first: action.first, offset: action.end })
      case "acked":
        this.release(side.role, action.handled, action.failed)
        if (action.failed.length > 0) this.write(side.role, encode({ t: "seen", o: action.handled }))
        return
      case "reply":
        return this.write(side.role, action.frame)
      default:
        throw new BrokenPromise(`an action that nobody asked for: ${action.t}`)
    }
  }

  private release(role: Role, handled: number, failed: Parameters<Outbox["ack"]>[1]): void {
    for (const { message } of this.side(role).outbox.ack(handled, failed).failed) this.bury(role, [message], "failed")
  }

  private bury(role: Role, messages: ReadonlyArray<OutboxMessage>, kind: Parameters<Ledger["dead"]>[1]): void {
    for (const { payload } of messages) this.ledgers[role].dead(valueOf(JSON.parse(payload)), kind)
  }

  private handled(role: Role, delivery: Delivery): void {
    const ledger = this.ledgers[otherRole(role)]
    if (delivery.kind === "gap") ledger.gap(delivery.epoch, delivery.first, delivery.offset)
    else if (delivery.failed) ledger.fail(delivery.value)
    else ledger.handle(delivery.value)
  }

  private atRest(): boolean {
    const { client, server } = this
    const link = client.link
    return link !== undefined && link === server.link && !link.cut &&
      [client, server].every(({ outbox, queue, role, session }) =>
        link.to[role].length === 0 && queue.length === 0 && !session.ackDue && session.inbox.unconfirmed === 0 &&
        outbox.acked === outbox.last && session.flow?.handled === outbox.last
      )
  }

  private checkRest({ outbox, role, session }: Side): void {
    const window = this.options.windows[otherRole(role)]
    const { flow, inbox } = session
    const rest = [outbox.messages, outbox.bytes, inbox.position.pending.messages, inbox.position.pending.bytes]
    if (rest.some((left) => left !== 0)) throw new BrokenPromise(`${role}: not empty at rest: ${rest.join(", ")}`)
    if (flow?.roomMessages !== window.messages || flow.roomBytes !== Infinity) {
      throw new BrokenPromise(`${role}: credit was lost for good`)
    }
  }
}
