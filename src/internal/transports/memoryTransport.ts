/** The in-memory transport: pairs of connections that hand frames to each other in order, in later turns. */
import { Effect, type Scope } from "effect"
import { Deque } from "../../core/Deque.ts"
import { highWaterBytes, subprotocol } from "../../core/Protocol.ts"
import { utf8Length } from "../../core/utf8.ts"
import type { Address, Connection, ConnectionSink, DialOptions, Request } from "../../Transport.ts"
import { TransportError } from "../../WebSocketError.ts"

type Event =
  | { readonly t: "frame"; readonly data: string; readonly written: ((ok: boolean) => void) | undefined }
  | { readonly t: "alive" }
  | { readonly t: "closed"; readonly code: number; readonly reason: string }

/** One end of a connection. A frame it sends is `incoming` at the other end until that end's reader takes it. */
class End implements Connection {
  readonly protocol: string
  readonly request: Request
  peer: End | undefined
  private readonly incoming = new Deque<Event>()
  private incomingBytes = 0
  private sink: ConnectionSink | undefined
  private paused = false
  private flushing = false
  private ended = false
  private awaitsDrain = false

  /**
   * Runs a task in another turn of the event loop. Otherwise, two ends that answer each other would let nothing else
   * run.
   */
  private readonly later: (task: () => void) => void

  constructor(protocol: string, request: Request, later: (task: () => void) => void) {
    this.protocol = protocol
    this.request = request
    this.later = later
  }

  open(sink: ConnectionSink): void {
    this.sink = sink
    this.schedule()
  }

  send(frame: string, written?: (ok: boolean) => void): void {
    const { peer } = this
    if (peer === undefined || peer.ended || this.ended) {
      if (written !== undefined) queueMicrotask(() => written(false))
      return
    }
    peer.incomingBytes += utf8Length(frame)
    if (peer.incomingBytes >= highWaterBytes) this.awaitsDrain = true
    peer.push({ t: "frame", data: frame, written })
  }

  buffered(): number {
    return this.peer?.incomingBytes ?? 0
  }

  pause(): void {
    this.paused = true
  }

  resume(): void {
    this.paused = false
    this.schedule()
  }

  ping(): void {
    if (this.peer !== undefined && !this.peer.ended) this.push({ t: "alive" })
  }

  close(code: number, reason: string): void {
    this.peer?.push({ t: "closed", code, reason })
    this.push({ t: "closed", code, reason })
  }

  terminate(): void {
    this.close(1006, "")
  }

  private push(event: Event): void {
    if (this.ended) return
    this.incoming.pushBack(event)
    this.schedule()
  }

  private schedule(): void {
    if (this.flushing || this.sink === undefined || this.ended) return
    this.flushing = true
    this.later(() => {
      this.flushing = false
      this.flush()
    })
  }

  private flush(): void {
    const { sink } = this
    if (sink === undefined) return
    while (!this.ended) {
      const event = this.incoming.front()
      if (event === undefined || (this.paused && event.t !== "closed")) return
      this.incoming.popFront()
      if (event.t === "frame") this.deliver(event.data, event.written, sink)
      else if (event.t === "alive") sink.alive()
      else {
        this.ended = true
        this.incoming.clear()
        this.incomingBytes = 0
        sink.closed(event.code, event.reason)
      }
    }
  }

  private deliver(data: string, written: ((ok: boolean) => void) | undefined, sink: ConnectionSink): void {
    const bytes = utf8Length(data)
    this.incomingBytes -= bytes
    sink.frame(data, bytes)
    written?.(true)
    const { peer } = this
    if (peer?.awaitsDrain === true && this.incomingBytes < highWaterBytes / 2) {
      peer.awaitsDrain = false
      peer.sink?.drained()
    }
  }
}

/** Two ends of one connection. */
export const makePair = (
  request: Request,
  later: (task: () => void) => void,
  protocol: string = subprotocol
): readonly [Connection, Connection] => {
  const client = new End(protocol, request, later)
  const server = new End(protocol, request, later)
  client.peer = server
  server.peer = client
  return [client, server]
}

interface Listener {
  readonly listen: (accept: (connection: Connection) => void) => Effect.Effect<Address, TransportError, Scope.Scope>
}

interface Dialler {
  readonly dial: (options: DialOptions) => Effect.Effect<Connection, TransportError>
}

export const makeMemory = <A>(make: (server: Listener, client: Dialler) => A): Effect.Effect<A> =>
  Effect.withFiber((fiber) => {
    const dispatcher = fiber.currentDispatcher
    const later = (task: () => void) => dispatcher.scheduleTask(task, 0)
    let accept: ((connection: Connection) => void) | undefined
    const server: Listener = {
      listen: (onConnection) =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            if (accept !== undefined) {
              return Effect.fail(new TransportError({ operation: "listen", detail: "there is a listener already" }))
            }
            accept = onConnection
            return Effect.succeed({ host: "memory", port: 0 })
          }),
          () => Effect.sync(() => void (accept = undefined))
        )
    }
    const client: Dialler = {
      dial: (options) =>
        Effect.suspend(() => {
          if (accept === undefined) {
            return Effect.fail(new TransportError({ operation: "dial", detail: "nobody listens" }))
          }
          const headers = { ...options.headers }
          const request = { url: options.url, headers, remoteAddress: "memory" }
          const [near, far] = makePair(request, later, options.protocol)
          accept(far)
          return Effect.succeed(near)
        })
    }
    return Effect.succeed(make(server, client))
  })
