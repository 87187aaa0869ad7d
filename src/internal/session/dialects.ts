/** How to talk to a peer: in this library's protocol, or as to a plain WebSocket that knows nothing of it. */
import { encodeMeta, encodeVolatile, pingFrame } from "../../core/Codec.ts"
import { Liveness } from "../../core/Liveness.ts"
import { bulkFrameBytes } from "../../core/Protocol.ts"
import type { Session } from "../../core/Session.ts"
import type { Connection } from "../../Transport.ts"
import type { Agreement, Link, Volatiles } from "./link.ts"
import type { Outgoing } from "./outgoing.ts"

/** How long a peer may be silent, in ms. */
export interface SilenceTimes {
  readonly heartbeat: number
  readonly heartbeatTimeout: number
  readonly idleTimeout: number
}

export interface Dialect {
  readonly name: "protocol" | "plain"
  /** What it is called when the peer has been silent for too long. */
  readonly silence: "heartbeat" | "idle"
  /** How many windows of deliveries may wait to be handled; with more, the peer is not read. */
  readonly waitingWindows: number
  readonly livenessFrom: (times: SilenceTimes, now: number) => Liveness
  /** The handshake is done, with this agreement. */
  readonly open: (core: Session, outgoing: Outgoing, agreement: Agreement, now: number) => void
  /** Asks for a sign of life. */
  readonly probe: (connection: Connection) => void
  /** The peer's WebSocket sent a ping or pong, which need not mean that the peer is alive. */
  readonly ponged: (liveness: Liveness, now: number) => void
  /** This side does not read the peer, so its silence is excused. Returns whether a little must be read anyway. */
  readonly excuse: (core: Session, link: Link, now: number) => boolean
  /** Sends a frame of the protocol. */
  readonly say: (connection: Connection, frame: string) => void
  readonly sendVolatiles: (connection: Connection, volatiles: Volatiles) => void
}

export const protocol: Dialect = {
  name: "protocol",
  silence: "heartbeat",
  // The window bounds its messages, but not its gaps.
  waitingWindows: 4,
  livenessFrom: ({ heartbeat, heartbeatTimeout }, now) =>
    new Liveness({ interval: heartbeat, timeout: heartbeatTimeout, now }),
  open: (core, outgoing, { announced, position, window }, now) => {
    core.open(window, position, announced)
    outgoing.resumed(position.handled, position.received, position.failed, now)
  },
  probe: (connection) => connection.send(pingFrame),
  // Only frames prove that the peer is alive: a ping may come from a proxy.
  ponged: () => {},
  // Its answers and acks lie unread. A pong tells it that this side is alive, or it would reconnect again and again. An
  // empty socket buffer shows that it takes what it is sent.
  excuse: (core, link, now) => {
    const { connection, liveness } = link
    liveness.heard(now)
    if (connection.buffered() > 0) return false
    link.progressAt = now
    connection.send(core.composePong())
    return true
  },
  say: (connection, frame) => connection.send(frame),
  sendVolatiles: (connection, volatiles) => {
    for (const frame of volatileFrames(volatiles)) connection.send(frame)
  }
}

/** Sends payloads as they are. A message is kept until the socket has taken it. */
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
  sendVolatiles: (connection, { payloads }) => {
    for (const payload of payloads) connection.send(payload)
  }
}

/** What a `traceparent` may take in a frame, in bytes. */
const metaBytes = 80

/** As many frames as it takes to keep each within the size of a bulk frame. */
const volatileFrames = ({ payloads, traces }: Volatiles): ReadonlyArray<string> => {
  const frames: Array<string> = []
  let part: Array<string> = []
  let meta: Array<string> = []
  let size = 0
  payloads.forEach((payload, index) => {
    if (part.length > 0 && size + payload.length * 3 > bulkFrameBytes) {
      frames.push(encodeVolatile(part, meta))
      part = []
      meta = []
      size = 0
    }
    const trace = traces?.get(index)
    if (trace !== undefined) meta.push(encodeMeta(part.length, undefined, trace))
    part.push(payload)
    size += payload.length * 3 + metaBytes // UTF-8 at most
  })
  frames.push(encodeVolatile(part, meta))
  return frames
}
