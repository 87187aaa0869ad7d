/** A client by hand, for handshakes that no honest client would make. */
import { Context, Deferred, Effect } from "effect"
import { Transport } from "resilient-websocket"
import type { Network } from "./harnessNetwork.ts"

interface Answer {
  readonly t: string
  readonly code?: string
  readonly result?: string
  readonly reason?: string
  readonly token: string
  readonly session: string
  readonly out?: object
  readonly in?: object
  readonly continued?: object
}

/** Says hello by hand; gives what the server answers. */
export const sayHello = Effect.fnUntraced(function*(network: Network, fields: object, delayMillis = 0) {
  const dialler = Context.get(network.context, Transport.TransportClient)
  const connection = yield* dialler.dial({
    url: "ws://memory",
    protocol: "resilient.v1",
    headers: {},
    timeoutMillis: 1_000,
    maxFrameBytes: 1_000_000
  })
  const answer = yield* Deferred.make<Answer>()
  const closed = yield* Deferred.make<number>()
  connection.open({
    frame: (data) => void Deferred.doneUnsafe(answer, Effect.succeed(JSON.parse(String(data)))),
    drained: () => {},
    alive: () => {},
    closed: (code) => void Deferred.doneUnsafe(closed, Effect.succeed(code))
  })
  yield* Effect.sleep(delayMillis)
  connection.send(JSON.stringify({
    t: "hello",
    version: 1,
    instance: "by-hand",
    out: { epoch: "mine", acked: 0, last: 0 },
    in: { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } },
    window: { messages: 10, bytes: 10_000 },
    maxPayload: 10_000,
    ...fields
  }))
  return { connection, answer: yield* Deferred.await(answer), closed: Deferred.await(closed) }
})
