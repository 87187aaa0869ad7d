/** The in-memory transport, as seen and broken by a test: frames are watched, withheld or lost, dials refused. */
import { Context, Effect, Layer, type Scope } from "effect"
import { Transport, WebSocketError } from "resilient-websocket"

export type Direction = "toServer" | "toClient"

/** One connection as the test sees it. */
interface Link {
  /** From now on nothing arrives any more, and nobody is told: a half-open connection. */
  readonly vanish: (direction?: Direction) => void
  /** Breaks it for both sides at once. */
  readonly cut: () => void
  /** Sends a frame as if the other side had. */
  readonly inject: (direction: Direction, frame: string) => void
  /** Frames that were sent, in order. */
  readonly frames: Array<{ readonly direction: Direction; readonly frame: string }>
}

export interface Network {
  readonly context: Context.Context<Transport.TransportServer | Transport.TransportClient>
  /** All connections ever made, the newest last. */
  readonly links: ReadonlyArray<Link>
  readonly newest: () => Link
  /** What dials meet. */
  dialling: "accepted" | "refused" | "unanswered"
  /** Whether a frame goes through. */
  passes: (direction: Direction, frame: string) => boolean
  /** What every end reports as not taken by its socket. */
  stuckBytes: number
  dials: number
}

class Wire implements Link {
  readonly frames: Array<{ readonly direction: Direction; readonly frame: string }> = []
  readonly lost = new Set<Direction>()
  private readonly ends: Array<Transport.Connection> = []
  private readonly senders = new Map<Direction, Transport.Connection>()

  inject(direction: Direction, frame: string): void {
    this.senders.get(direction)?.send(frame)
  }

  vanish(direction?: Direction): void {
    for (const lost of direction === undefined ? ["toServer", "toClient"] as const : [direction]) this.lost.add(lost)
  }

  cut(): void {
    for (const end of this.ends) end.terminate()
  }

  wrap(end: Transport.Connection, outgoing: Direction, network: Network): Transport.Connection {
    this.ends.push(end)
    this.senders.set(outgoing, end)
    const incoming: Direction = outgoing === "toServer" ? "toClient" : "toServer"
    let sink: Transport.ConnectionSink | undefined
    let closed = false
    const report = (code: number, reason: string) => {
      if (closed) return
      closed = true
      sink?.closed(code, reason)
    }
    return {
      protocol: end.protocol,
      request: end.request,
      open: (to) => {
        sink = to
        end.open({
          frame: (data, bytes) => {
            if (!closed && !this.lost.has(incoming)) to.frame(data, bytes)
          },
          drained: () => to.drained(),
          alive: () => {
            if (!this.lost.has(incoming)) to.alive()
          },
          closed: (code, reason) => {
            if (!this.lost.has(incoming)) report(code, reason)
          }
        })
      },
      send: (frame, written) => {
        this.frames.push({ direction: outgoing, frame })
        if (!network.passes(outgoing, frame)) return
        end.send(frame, written)
      },
      buffered: () => network.stuckBytes + end.buffered(),
      pause: () => end.pause(),
      resume: () => end.resume(),
      ping: () => end.ping(),
      // Ends at this side in any case, as an orderly close does that is not answered; the other is told if it can be.
      close: (code, reason) => {
        if (!this.lost.has(outgoing)) end.close(code, reason)
        if (this.lost.size > 0) queueMicrotask(() => report(1006, ""))
      },
      terminate: () => {
        if (!this.lost.has(outgoing)) end.terminate()
        if (this.lost.size > 0) queueMicrotask(() => report(1006, ""))
      }
    }
  }
}

export const makeNetwork: Effect.Effect<Network, never, Scope.Scope> = Effect.gen(function*() {
  const inner = yield* Layer.build(Transport.layerMemory)
  const listener = Context.get(inner, Transport.TransportServer)
  const dialler = Context.get(inner, Transport.TransportClient)
  const wires: Array<Wire> = []
  let dialled: Wire | undefined
  const context = Context.make(Transport.TransportServer, {
    listen: (accept) =>
      listener.listen((connection) => {
        const wire = dialled ?? new Wire()
        accept(wire.wrap(connection, "toClient", network))
      })
  }).pipe(Context.add(Transport.TransportClient, {
    dial: (options) =>
      Effect.suspend(() => {
        network.dials++
        if (network.dialling === "unanswered") {
          const { timeoutMillis: afterMillis } = options
          return Effect.delay(
            Effect.fail(new WebSocketError.ConnectionTimeoutError({ phase: "dial", afterMillis })),
            afterMillis
          )
        }
        if (network.dialling === "refused") {
          return Effect.fail(new WebSocketError.TransportError({ operation: "dial", detail: "refused by the test" }))
        }
        const wire = new Wire()
        dialled = wire
        return Effect.map(dialler.dial(options), (connection) => {
          wires.push(wire)
          return wire.wrap(connection, "toServer", network)
        })
      })
  }))
  const network: Network = {
    context,
    links: wires,
    newest: () => {
      const wire = wires.at(-1)
      if (wire === undefined) throw new Error("nobody has connected")
      return wire
    },
    dialling: "accepted",
    passes: () => true,
    stuckBytes: 0,
    dials: 0
  }
  return network
})
