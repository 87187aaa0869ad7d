/** Passes a connection's events to the handshake first, and to the session once the handshake is done. */
import type { Connection, ConnectionSink } from "../../Transport.ts"

export class HandshakeSink implements ConnectionSink {
  private readonly connection: Connection
  private sink: ConnectionSink
  private kept: Array<(sink: ConnectionSink) => void> | undefined

  /** Opens the connection. `first` gets its events until `become`. */
  constructor(connection: Connection, first: ConnectionSink) {
    this.connection = connection
    this.sink = first
    connection.open(this)
  }

  /**
   * Keeps events until `become`, so that none is lost between the handshake's last frame and the session. They are few,
   * as the connection is paused meanwhile.
   */
  hold(): void {
    this.kept ??= []
    this.connection.pause()
  }

  /** Gives `sink` the kept events, and every later one. */
  become(sink: ConnectionSink): void {
    this.sink = sink
    const events = this.kept
    if (events === undefined) return
    this.kept = undefined
    this.connection.resume()
    for (const event of events) event(sink)
  }

  frame(data: string | Uint8Array, bytes: number): void {
    if (this.kept === undefined) this.sink.frame(data, bytes)
    else this.kept.push((to) => to.frame(data, bytes))
  }

  incoming(bytes: number): void {
    if (this.kept === undefined) this.sink.incoming?.(bytes)
  }

  drained(): void {
    if (this.kept === undefined) this.sink.drained()
    else this.kept.push((to) => to.drained())
  }

  alive(): void {
    if (this.kept === undefined) this.sink.alive()
    else this.kept.push((to) => to.alive())
  }

  closed(code: number, reason: string): void {
    if (this.kept === undefined) this.sink.closed(code, reason)
    else this.kept.push((to) => to.closed(code, reason))
  }
}
