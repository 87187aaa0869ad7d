/** A connection whose sink can change: the handshake's first, the session's after it. */
import type { Connection, ConnectionSink } from "../Transport.ts"

export interface Port {
  /** From now on events are kept, until `become`: between the handshake's last frame and the session, nothing is lost. */
  readonly hold: () => void
  /** From now on `sink` is told, first of what was kept. */
  readonly become: (sink: ConnectionSink) => void
}

export const openPort = (connection: Connection, first: ConnectionSink): Port => {
  let sink = first
  // What the other side sends before it hears from the session is bounded by the window that the handshake granted.
  let kept: Array<(sink: ConnectionSink) => void> | undefined
  connection.open({
    frame: (data, bytes) =>
      kept === undefined ? sink.frame(data, bytes) : void kept.push((to) => to.frame(data, bytes)),
    drained: () => kept === undefined ? sink.drained() : void kept.push((to) => to.drained()),
    alive: () => kept === undefined ? sink.alive() : void kept.push((to) => to.alive()),
    closed: (code, reason) =>
      kept === undefined ? sink.closed(code, reason) : void kept.push((to) => to.closed(code, reason))
  })
  return {
    hold: () => {
      kept = []
    },
    become: (next) => {
      sink = next
      const events = kept ?? []
      kept = undefined
      for (const event of events) event(next)
    }
  }
}
