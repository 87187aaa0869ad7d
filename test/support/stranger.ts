/** A peer by hand on the in-memory transport, that says what no honest one would, and sees what is not read of it. */
import { Context, Effect } from "effect"
import { Transport } from "resilient-websocket"
import type { Network } from "./harnessNetwork.ts"

export interface Stranger {
  readonly say: (frame: string) => void
  /** A batch of messages, at the offsets after the last. */
  readonly batch: (messages: ReadonlyArray<unknown>) => void
  readonly pingTransport: () => void
  /** Frames that came. */
  readonly got: ReadonlyArray<string>
  /** Bytes that the other side has not read. */
  readonly unread: () => number
  readonly closed: () => number | undefined
}

const hello = (instance: string, auth: string | undefined) => ({
  t: "hello",
  version: 1,
  instance,
  auth,
  out: { epoch: instance, acked: 0, last: 0 },
  in: { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } },
  window: { messages: 1_024, bytes: 4 * 1_024 * 1_024 },
  maxPayload: 1_024 * 1_024
})

let strangers = 0

/** Connects, as a plain peer or with a hello. */
export const makeStranger = Effect.fnUntraced(function*(
  network: Network,
  kind: "plain" | "protocol",
  token?: string
) {
  const dialler = Context.get(network.context, Transport.TransportClient)
  const connection = yield* dialler.dial({
    url: token === undefined ? "/" : `/?token=${token}`,
    protocol: kind === "plain" ? "" : "resilient.v1",
    headers: {},
    timeoutMillis: 1_000,
    maxFrameBytes: 1_000_000
  })
  const got: Array<string> = []
  let closed: number | undefined
  connection.open({
    frame: (data) => void got.push(String(data)),
    drained: () => {},
    alive: () => {},
    closed: (code) => void (closed = code)
  })
  if (kind === "protocol") connection.send(JSON.stringify(hello(`stranger-${++strangers}`, token)))
  let next = 1
  const stranger: Stranger = {
    say: (frame) => connection.send(frame),
    batch: (messages) => {
      connection.send(JSON.stringify({ t: "batch", o: next, m: messages }))
      next += messages.length
    },
    pingTransport: () => connection.ping(),
    got,
    unread: () => connection.buffered(),
    closed: () => closed
  }
  return stranger
})
