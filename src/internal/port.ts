/** A connection whose sink can change: the handshake's first, the session's after it. */
import type { Connection, ConnectionSink } from "../Transport.ts"

export const openPort = (connection: Connection, first: ConnectionSink): (sink: ConnectionSink) => void => {
  let sink = first
  connection.open({
    frame: (data, bytes) => sink.frame(data, bytes),
    drained: () => sink.drained(),
    alive: () => sink.alive(),
    closed: (code, reason) => sink.closed(code, reason)
  })
  return (next) => {
    sink = next
  }
}
