/**
 * The network of the simulation: `TransportServer` and `TransportClient` over pipes that behave as TCP does. Each
 * direction is in order; a cut loses a suffix of each direction and never a middle; a half-open connection goes on
 * taking what is written until its buffers are full. Time is the Clock's, chance the seed's.
 */
import { Duration, Effect, Latch } from "effect"
import { Deque } from "../../src/core/Deque.ts"
import { highWaterBytes } from "../../src/core/Protocol.ts"
import { utf8Length } from "../../src/core/utf8.ts"
import type {
  Connection,
  ConnectionSink,
  DialOptions,
  Request,
  TransportClient,
  TransportServer
} from "../../src/Transport.ts"
import { ConnectionTimeoutError, TransportError } from "../../src/WebSocketError.ts"
import type { Node, Rng } from "./simulationNode.ts"

/** What stays as it is when the faults stop. */
export interface NetworkShape {
  /** One way, in ms. */
  readonly latency: readonly [min: number, max: number]
  readonly bytesPerMilli: number
  /** What a direction takes without its reader having read it. */
  readonly kernelBytes: number
  /** How long a reader needs for 1,000 bytes, in ms. */
  readonly readMillis: number
}

/** Chances. */
export interface NetworkFaults {
  /** A frame, that the connection breaks when it is written. */
  readonly cut: number
  /** A break, that one or both sides are not told. */
  readonly halfOpen: number
  /** A frame, that its direction stands still for a while. */
  readonly stall: number
  /** A dial, that it is refused. */
  readonly refuse: number
  /** A dial, that nothing is heard of it, though the server may have accepted. */
  readonly hang: number
}

export const noFaults: NetworkFaults = { cut: 0, halfOpen: 0, stall: 0, refuse: 0, hang: 0 }

type Item =
  | { readonly t: "frame"; readonly data: string; readonly bytes: number; readonly at: number }
  | { readonly t: "ping" | "pong"; readonly bytes: number; readonly at: number }
  | { readonly t: "close"; readonly code: number; readonly reason: string; readonly bytes: number; readonly at: number }

interface Unsent {
  readonly make: (at: number) => Item
  readonly bytes: number
  readonly written: ((ok: boolean) => void) | undefined
}

/** How long an orderly close may take. */
const closeGraceMillis = 2_000

/** One end of a link. */
class End implements Connection {
  readonly protocol: string
  readonly request: Request
  readonly node: Node
  readonly link: Link
  peer: End | undefined
  state: "open" | "closing" | "ended" = "open"
  private sink: ConnectionSink | undefined
  private ended: { readonly code: number; readonly reason: string } | undefined
  private paused = false
  private awaitsDrain = false
  private readonly unsent = new Deque<Unsent>()
  private unsentBytes = 0
  readonly incoming: Array<Item> = []
  /** Under way or arrived, and not read. What a half-open link swallowed counts for ever. */
  incomingBytes = 0
  lastArrival = 0
  stalledUntil = 0
  private readonly wake = Latch.makeUnsafe(false)

  constructor(link: Link, node: Node, protocol: string, request: Request) {
    this.link = link
    this.node = node
    this.protocol = protocol
    this.request = request
  }

  open(sink: ConnectionSink): void {
    this.sink = sink
    if (this.ended !== undefined) {
      const { code, reason } = this.ended
      this.node.later(() => sink.closed(code, reason))
    } else this.node.run(this.pump)
  }

  send(frame: string, written?: (ok: boolean) => void): void {
    if (this.state !== "open") {
      if (written !== undefined) this.node.later(() => written(false))
      return
    }
    const bytes = utf8Length(frame)
    this.link.network.onFrame(this, frame)
    this.write({ make: (at) => ({ t: "frame", data: frame, bytes, at }), bytes, written })
    this.link.mayBreak(this)
  }

  buffered(): number {
    return this.unsentBytes
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    this.notify()
  }

  ping(): void {
    if (this.state === "open") this.write({ make: (at) => ({ t: "ping", bytes: 6, at }), bytes: 6, written: undefined })
  }

  close(code: number, reason: string): void {
    if (this.state !== "open") return
    this.paused = false
    this.notify()
    this.write({ make: (at) => ({ t: "close", code, reason, bytes: 8, at }), bytes: 8, written: undefined })
    this.state = "closing"
    this.node.run(
      Effect.delay(
        Effect.sync(() => {
          if (this.ended === undefined) this.terminate()
        }),
        closeGraceMillis
      )
    )
  }

  terminate(): void {
    if (this.ended !== undefined) return
    this.state = "closing"
    this.link.reset(this)
    this.node.later(() => this.finish(1006, ""))
  }

  /** Takes what the network brings, in order, each at its time. */
  private readonly pump = Effect.suspend(() => {
    const { link, node } = this
    const step: Effect.Effect<boolean> = Effect.suspend(() => {
      if (this.ended !== undefined) return Effect.succeed(false)
      const item = this.incoming[0]
      if (item === undefined || (this.paused && item.t !== "close")) {
        this.wake.closeUnsafe()
        return Effect.as(this.wake.await, true)
      }
      const now = link.network.now()
      const until = Math.max(item.at, this.stalledUntil)
      // Less than a microsecond is a rounding error, and a sleep that would not end.
      if (until - now > 0.001) return Effect.as(Effect.sleep(Duration.millis(until - now)), true)
      this.incoming.shift()
      this.take(item)
      const { readMillis } = link.network.shape
      const reading = Math.floor(item.bytes * readMillis / 1_000)
      return reading > 0 ? Effect.as(Effect.sleep(Duration.millis(reading)), true) : Effect.as(Effect.yieldNow, true)
    })
    return Effect.asVoid(Effect.repeat(step, { while: (more) => more && node.state !== "dead" }))
  })

  private take(item: Item): void {
    this.incomingBytes -= item.bytes
    this.peer?.flush()
    const { sink } = this
    switch (item.t) {
      case "frame":
        sink?.frame(item.data, item.bytes)
        return
      case "ping":
        this.write({ make: (at) => ({ t: "pong", bytes: 6, at }), bytes: 6, written: undefined })
        return
      case "pong":
        sink?.alive()
        return
      case "close":
        if (this.state === "open") {
          this.write({
            make: (at) => ({ t: "close", code: item.code, reason: item.reason, bytes: 8, at }),
            bytes: 8,
            written: undefined
          })
        }
        this.finish(item.code, item.reason)
    }
  }

  finish(code: number, reason: string): void {
    if (this.ended !== undefined) return
    this.ended = { code, reason }
    this.state = "ended"
    this.incoming.length = 0
    this.unsent.clear()
    this.notify()
    this.link.network.onEnd(this)
    this.sink?.closed(code, reason)
  }

  private write(unsent: Unsent): void {
    if (this.unsent.size === 0 && this.hasRoom(unsent.bytes)) return this.transmit(unsent)
    this.unsent.pushBack(unsent)
    this.unsentBytes += unsent.bytes
    if (this.unsentBytes >= highWaterBytes) this.awaitsDrain = true
  }

  private hasRoom(bytes: number): boolean {
    const taken = this.peer?.incomingBytes ?? 0
    return taken === 0 || taken + bytes <= this.link.network.shape.kernelBytes
  }

  private transmit({ bytes, make, written }: Unsent): void {
    const { link, peer } = this
    if (written !== undefined) this.node.later(() => written(true))
    if (peer === undefined) return
    peer.incomingBytes += bytes
    if (link.broken) return // what is written to a half-open connection is taken, and never arrives
    const { network } = link
    const arrival = network.now() + network.latency() + Math.floor(bytes / network.shape.bytesPerMilli)
    peer.lastArrival = Math.max(peer.lastArrival, arrival)
    peer.incoming.push(make(peer.lastArrival))
    peer.notify()
  }

  /** The reader has read: there may be room for more. */
  private flush(): void {
    while (true) {
      const next = this.unsent.front()
      if (next === undefined || !this.hasRoom(next.bytes)) break
      this.unsent.popFront()
      this.unsentBytes -= next.bytes
      this.transmit(next)
    }
    if (!this.awaitsDrain || this.unsentBytes >= highWaterBytes || this.ended !== undefined) return
    this.awaitsDrain = false
    this.node.later(() => {
      if (this.ended === undefined) this.sink?.drained()
    })
  }

  /** The connection broke: a suffix of what is under way is lost, and if `told`, the end of it is seen. */
  lose(rng: Rng, told: boolean): void {
    if (this.ended !== undefined) return
    this.incoming.length = rng.int(0, this.incoming.length)
    if (!told) return
    const at = Math.max(this.incoming.at(-1)?.at ?? 0, this.link.network.now() + this.link.network.latency())
    this.incoming.push({ t: "close", code: 1006, reason: "", bytes: 0, at })
    this.notify()
  }

  notify(): void {
    this.node.later(() => this.wake.openUnsafe())
  }
}

class Link {
  readonly network: SimulatedNetwork
  readonly client: End
  readonly server: End
  broken = false

  constructor(network: SimulatedNetwork, clientNode: Node, serverNode: Node, options: DialOptions) {
    this.network = network
    const request = { url: options.url, headers: { ...options.headers }, remoteAddress: clientNode.name }
    this.client = new End(this, clientNode, options.protocol, request)
    this.server = new End(this, serverNode, options.protocol, request)
    this.client.peer = this.server
    this.server.peer = this.client
  }

  mayBreak(writer: End): void {
    const { faults, rng } = this.network
    if (rng.chance(faults.cut)) this.cut(rng.chance(faults.halfOpen))
    if (rng.chance(faults.stall) && writer.peer !== undefined) {
      writer.peer.stalledUntil = this.network.now() + rng.int(100, 6_000)
    }
  }

  /** Breaks. When it is half-open, one side may learn of it all the same, and the other does not. */
  cut(halfOpen: boolean): void {
    if (this.broken) return
    this.broken = true
    const { rng } = this.network
    const told = halfOpen ? rng.pick(["neither", "neither", "client", "server"] as const) : "both"
    this.network.note(`cut ${told}`)
    this.client.lose(rng, told === "both" || told === "client")
    this.server.lose(rng, told === "both" || told === "server")
  }

  /** `from` ended it at once; the other side is told, if anything still gets through. */
  reset(from: End): void {
    const wasBroken = this.broken
    this.broken = true
    from.peer?.lose(this.network.rng, !wasBroken)
  }
}

interface Listener {
  readonly node: Node
  readonly accept: (connection: Connection) => void
  /** Accepted in the order of the dials, also when the process stood still. */
  readonly backlog: Array<Connection>
}

export class SimulatedNetwork {
  readonly rng: Rng
  readonly now: () => number
  shape: NetworkShape
  faults: NetworkFaults
  /** Told what happens, for the trace. */
  readonly note: (text: string) => void
  private readonly links = new Set<Link>()
  private readonly listeners = new Map<string, Listener>()

  constructor(options: {
    readonly rng: Rng
    readonly now: () => number
    readonly shape: NetworkShape
    readonly faults: NetworkFaults
    readonly note: (text: string) => void
  }) {
    this.rng = options.rng
    this.now = options.now
    this.shape = options.shape
    this.faults = options.faults
    this.note = options.note
  }

  latency(): number {
    return this.rng.int(...this.shape.latency)
  }

  /** Connections that this node has not been told the end of. */
  openAt(node: Node): number {
    let open = 0
    for (const { client, server } of this.links) {
      for (const end of [client, server]) if (end.node === node && end.state !== "ended") open++
    }
    return open
  }

  onEnd(end: End): void {
    const { link } = end
    if (link.client.state === "ended" && link.server.state === "ended") this.links.delete(link)
  }

  onFrame(end: End, frame: string): void {
    this.note(`${end.node.name} ${frame.startsWith(`{"t":"welcome`) ? "welcome" : frame.slice(0, 40)}`)
  }

  /** Breaks some connections now. */
  cutSome(probability: number, halfOpen: number): void {
    for (const link of this.links) if (this.rng.chance(probability)) link.cut(this.rng.chance(halfOpen))
  }

  /** The process is gone: the kernel may tell its peers, or the machine went with it. */
  killed(node: Node): void {
    for (const [host, listener] of this.listeners) if (listener.node === node) this.listeners.delete(host)
    const told = this.rng.chance(0.7)
    for (const link of this.links) {
      for (const end of [link.client, link.server]) {
        if (end.node !== node) continue
        end.state = "ended"
        if (!link.broken) {
          link.broken = true
          end.peer?.lose(this.rng, told)
        }
        this.onEnd(end)
      }
    }
  }

  server(node: Node, host: string): TransportServer["Service"] {
    return {
      listen: (accept) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            if (this.listeners.has(host)) {
              return Effect.fail(new TransportError({ operation: "listen", detail: "there is a listener already" }))
            }
            this.listeners.set(host, { node, accept, backlog: [] })
            return Effect.succeed({ host, port: 0 })
          }),
          () =>
            Effect.sync(() => {
              if (this.listeners.get(host)?.node === node) this.listeners.delete(host)
            })
        )
    }
  }

  client(node: Node): TransportClient["Service"] {
    const dial = Effect.fnUntraced(function*(network: SimulatedNetwork, options: DialOptions) {
      const { faults, rng } = network
      const refused = new TransportError({ operation: "dial", detail: "refused" })
      network.note(`${node.name} dials`)
      yield* Effect.sleep(Duration.millis(network.latency()))
      const listener = network.listeners.get(new URL(options.url).host)
      if (listener === undefined || rng.chance(faults.refuse)) {
        network.note(`${node.name} refused`)
        return yield* refused
      }
      const hangs = rng.chance(faults.hang)
      if (hangs && rng.chance(0.5)) return yield* network.hang(options)
      const link = new Link(network, node, listener.node, options)
      network.links.add(link)
      listener.backlog.push(link.server)
      listener.node.later(() => {
        const next = listener.backlog.shift()
        if (next !== undefined) listener.accept(next)
      })
      if (hangs) {
        link.cut(true)
        link.client.finish(1006, "")
        return yield* network.hang(options)
      }
      return yield* Effect.as(Effect.sleep(Duration.millis(network.latency())), link.client).pipe(
        Effect.onInterrupt(() => Effect.sync(() => link.client.terminate()))
      )
    })
    return { dial: (options) => dial(this, options) }
  }

  private hang(options: DialOptions): Effect.Effect<never, ConnectionTimeoutError> {
    this.note("a dial hangs")
    const afterMillis = options.timeoutMillis
    return Effect.andThen(
      Effect.sleep(Duration.millis(afterMillis)),
      Effect.fail(new ConnectionTimeoutError({ phase: "dial", afterMillis }))
    )
  }
}
