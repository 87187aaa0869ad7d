/** How a peer is spoken to: in the protocol of this library, or as a plain WebSocket, which knows nothing of it. */
import { encodeVolatile, pingFrame } from "../../core/Codec.ts"
import { Liveness } from "../../core/Liveness.ts"
import { bulkFrameBytes } from "../../core/Protocol.ts"
import type { Session } from "../../core/Session.ts"
import type { Connection } from "../../Transport.ts"
import type { Agreement, Link } from "./link.ts"
import type { Outgoing } from "./outgoing.ts"

/** How long a peer may be silent, in ms. */
export interface SilenceTimes {
  readonly heartbeat: number
  readonly heartbeatTimeout: number
  readonly idleTimeout: number
}

export interface Dialect {
  /** Its name in tables of peers. */
  readonly name: "protocol" | "plain"
  /** The error when such a peer has been silent for too long. */
  readonly silence: "heartbeat" | "idle"
  /** How many windows of messages may wait to be handled. For a plain peer, nothing else limits them. */
  readonly waitingWindows: number
  readonly livenessFrom: (times: SilenceTimes, now: number) => Liveness
  /** The handshake is done, and agreed on this. */
  readonly open: (core: Session, outgoing: Outgoing, agreement: Agreement, now: number) => void
  /** Asks for a sign of life. */
  readonly probe: (connection: Connection) => void
  /** The peer's WebSocket has answered, though perhaps not its program. */
  readonly ponged: (liveness: Liveness, now: number) => void
  /** The peer can't be heard, as its connection is not read. Whether some of what it sends must be read even so. */
  readonly excuse: (core: Session, link: Link, now: number) => boolean
  /** Sends a frame of the protocol. */
  readonly say: (connection: Connection, frame: string) => void
  readonly sendVolatiles: (connection: Connection, payloads: ReadonlyArray<string>) => void
}

export const protocol: Dialect = {
  name: "protocol",
  silence: "heartbeat",
  // Its own window restrains it, but not in gaps.
  waitingWindows: 4,
  livenessFrom: ({ heartbeat, heartbeatTimeout }, now) =>
    new Liveness({ interval: heartbeat, timeout: heartbeatTimeout, now }),
  open: (core, outgoing, { announced, position, window }, now) => {
    core.open(window, position, announced)
    outgoing.resumed(position.handled, position.received, position.failed, now)
  },
  probe: (connection) => connection.send(pingFrame),
  // It is known by its frames: it may be a proxy that pings.
  ponged: () => {},
  // Its answers and acks lie unread. It is told that this side lives, or it would come back with a new connection, again
  // and again. That it takes what it is sent can be seen all the same.
  excuse: (core, link, now) => {
    const { connection, liveness } = link
    liveness.heard(now)
    if (connection.buffered() > 0) return false
    link.progressAt = now
    connection.send(core.composePong())
    return true
  },
  say: (connection, frame) => connection.send(frame),
  sendVolatiles: (connection, payloads) => {
    for (const frame of volatileFrames(payloads)) connection.send(frame)
  }
}

/** Payloads as they are. A message is kept until the socket has taken it. */
export const plain: Dialect = {
  name: "plain",
  silence: "idle",
  waitingWindows: 1,
  livenessFrom: ({ idleTimeout }, now) => new Liveness({ interval: idleTimeout / 2, timeout: idleTimeout / 2, now }),
  open: () => {},
  probe: (connection) => connection.ping(),
  ponged: (liveness, now) => liveness.heard(now),
  excuse: () => false,
  say: () => {},
  sendVolatiles: (connection, payloads) => {
    for (const payload of payloads) connection.send(payload)
  }
}

/** As many frames as it takes to keep each within the size of a bulk frame. */
const volatileFrames = (payloads: ReadonlyArray<string>): ReadonlyArray<string> => {
  const frames: Array<string> = []
  let part: Array<string> = []
  let size = 0
  for (const payload of payloads) {
    if (part.length > 0 && size + payload.length * 3 > bulkFrameBytes) {
      frames.push(encodeVolatile(part))
      part = []
      size = 0
    }
    part.push(payload)
    size += payload.length * 3 // UTF-8 at most
  }
  frames.push(encodeVolatile(part))
  return frames
}
