/** Peers by hand, of any address, as a transport hands them to a server: as many as wanted, without sockets. */
import { Context, Effect } from "effect"
import { Transport, type WebSocketError } from "resilient-websocket"

export interface Frame {
  readonly t: string
  readonly code?: string
  readonly detail?: string
  readonly session?: string
  readonly token?: string
  readonly m?: ReadonlyArray<unknown>
}

export class Stranger {
  readonly received: Array<Frame> = []
  closedWith: number | undefined
  readonly connection: Transport.Connection
  private sink: Transport.ConnectionSink | undefined

  constructor(remoteAddress: string, url = "/") {
    this.connection = {
      protocol: "resilient.v1",
      request: { url, headers: {}, remoteAddress },
      open: (sink) => {
        this.sink = sink
      },
      send: (frame, written) => {
        this.received.push(JSON.parse(frame))
        written?.(true)
      },
      buffered: () => 0,
      pause: () => {},
      resume: () => {},
      ping: () => {},
      close: (code) => this.leave(code),
      terminate: () => this.leave(1006)
    }
  }

  say(frame: object): void {
    const text = JSON.stringify(frame)
    this.sink?.frame(text, text.length)
  }

  hello(fields: object = {}): void {
    this.say({
      t: "hello",
      version: 1,
      instance: "by-hand",
      out: { epoch: "mine", acked: 0, last: 0 },
      in: { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } },
      window: { messages: 1_000, bytes: 1_000_000 },
      maxPayload: 10_000,
      ...fields
    })
  }

  leave(code = 1006): void {
    if (this.closedWith !== undefined) return
    this.closedWith = code
    this.sink?.closed(code, "")
  }

  get answer(): Frame | undefined {
    return this.received[0]
  }
}

/** A transport whose connections the test makes. */
export class Door {
  private accept: ((connection: Transport.Connection) => void) | undefined
  readonly context: Context.Context<Transport.TransportServer>

  constructor() {
    const listen = (
      accept: (connection: Transport.Connection) => void
    ): Effect.Effect<Transport.Address, WebSocketError.TransportError> =>
      Effect.sync(() => {
        this.accept = accept
        return { host: "", port: 0 }
      })
    this.context = Context.make(Transport.TransportServer, { listen })
  }

  /** Somebody comes, and says nothing yet. */
  knock(remoteAddress: string, url?: string): Stranger {
    const stranger = new Stranger(remoteAddress, url)
    this.accept?.(stranger.connection)
    return stranger
  }

  come(remoteAddress: string, fields?: object): Stranger {
    const stranger = this.knock(remoteAddress)
    stranger.hello(fields)
    return stranger
  }
}
