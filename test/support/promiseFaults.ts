/**
 * A process in which everything fails that can: the stores, by failures and by defects; the user's functions, thrown and
 * rejected; the sockets. It must end by itself, with nothing unhandled: an unhandled rejection ends it with another code.
 */
import { Context, Effect, Layer } from "effect"
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { WebSocket, WebSocketServer } from "ws"
import { Deduplicator, MemoryStore, MessageQueue, SessionRegistry, WebSocketError } from "../../src/index.ts"
import { ResilientClient } from "../../src/promise/index.ts"
import type { ManagerOptions } from "../../src/promise/managerOptions.ts"
import { ResilientWebSocketManager } from "../../src/promise/ResilientWebSocketManager.ts"

let unhandled = 0
process.on("unhandledRejection", (error) => {
  unhandled++
  console.error("unhandled rejection", error)
})

const fault = (name: string) => new Error(`${name} fails`)
const rejecting = (name: string) => () => Promise.reject(fault(name))
const throwing = (name: string) => (): never => {
  throw fault(name)
}

/** Fails now and then, in turns: by a failure of the store, by a defect, not at all. */
const flaky = <Args extends ReadonlyArray<unknown>, A, E>(
  method: (...args: Args) => Effect.Effect<A, E>,
  failure: E
): (...args: Args) => Effect.Effect<A, E> => {
  let calls = 0
  return (...args) =>
    Effect.suspend(() => {
      const turn = calls++ % 4
      return turn === 0 ? Effect.fail(failure) : turn === 1 ? Effect.die(fault("a store")) : method(...args)
    })
}

/** Dies every other time. */
const dying = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, E> => {
  let calls = 0
  return Effect.suspend(() => calls++ % 2 === 0 ? Effect.die(fault("a store")) : effect)
}

const queueError = new WebSocketError.MessageQueueError({ session: "", operation: "test", reason: "store" })
const registryError = new WebSocketError.SessionRegistryError({ session: "", operation: "test", reason: "store" })
const keyError = new WebSocketError.DeduplicationError({ scope: "", key: "", reason: "store" })

const flakyStore = Layer.effectContext(Effect.map(Layer.build(MemoryStore.layer()), (store) => {
  const queue = Context.get(store, MessageQueue.MessageQueue)
  const registry = Context.get(store, SessionRegistry.SessionRegistry)
  const deduplicator = Context.get(store, Deduplicator.Deduplicator)
  return store.pipe(
    Context.add(MessageQueue.MessageQueue, {
      ...queue,
      append: flaky(queue.append, queueError),
      read: flaky(queue.read, queueError),
      ack: flaky(queue.ack, queueError),
      expire: flaky(queue.expire, queueError),
      stats: dying(queue.stats),
      size: flaky(queue.size, queueError)
    }),
    Context.add(SessionRegistry.SessionRegistry, {
      ...registry,
      attach: flaky(registry.attach, registryError),
      savePosition: flaky(registry.savePosition, registryError),
      detach: flaky(registry.detach, registryError),
      release: flaky(registry.release, registryError),
      expire: flaky(() => registry.expire, registryError)(),
      count: dying(registry.count)
    }),
    Context.add(Deduplicator.Deduplicator, {
      ...deduplicator,
      claim: flaky(deduplicator.claim, keyError),
      rotate: Effect.die(fault("rotate"))
    })
  )
}))

const options: ManagerOptions<unknown, unknown> = {
  log: rejecting("log"),
  onMessage: rejecting("onMessage"),
  onGap: rejecting("onGap"),
  fallbackSend: rejecting("fallbackSend"),
  handlerRetry: { base: 1, cap: 2, attempts: 2 },
  parse: (value) => value === "bad" ? throwing("parse")() : value,
  deduplicate: true,
  heartbeat: "50 millis",
  heartbeatTimeout: "50 millis",
  ackTimeout: "100 millis",
  expirySweep: "10 millis",
  shutdownTimeout: "3 seconds",
  restartIntensity: { restarts: 5, period: "1 minute" }
}

const manager = await ResilientWebSocketManager.makeOn(options, flakyStore)
const failures: Array<unknown> = []
for (const event of ["deadLetter", "stateChange", "circuitChange", "refused", "failure"] as const) {
  manager.on(event, rejecting(event))
  manager.on(event, throwing(event))
}
manager.on("failure", (failure) => failures.push(failure))

const server = new WebSocketServer({ host: "127.0.0.1", port: 0 })
server.on("connection", (ws, request) => {
  void manager.registerConnection(ws, { sessionId: request.url?.slice(1) })
})
await once(server, "listening")
const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}` // it listens on TCP

const client = await ResilientClient.connect(
  () => Math.random() < 0.3 ? rejecting("url")() : `${url}/client`,
  {
    wait: false,
    log: throwing("log"),
    token: () => Math.random() < 0.3 ? rejecting("token")() : "token",
    onMessage: rejecting("onMessage"),
    onGap: throwing("onGap"),
    fallbackSend: throwing("fallbackSend"),
    handlerRetry: { base: 1, cap: 2, attempts: 2 },
    reconnect: { base: 1, cap: 10 },
    expirySweep: "10 millis"
  }
)
for (const event of ["deadLetter", "stateChange", "circuitChange"] as const) client.on(event, rejecting(event))

const turn = () => new Promise((resolve) => void setTimeout(resolve, 2))
const ignore = () => {}
let round = 0
const giveUpAt = Date.now() + 80_000
// Until the manager gives up, as its deduplicator can't be rotated; that is the last of its failures.
while (failures.length === 0 && Date.now() < giveUpAt) {
  const plain = new WebSocket(`${url}/plain${round % 3}`)
  plain.on("error", ignore)
  plain.on("open", () => plain.send(round % 2 === 0 ? "text" : `"bad"`))
  for (const session of ["client", "plain0", "nobody"]) {
    void manager.send(session, { round }, { critical: true, ttl: 5 }).catch(ignore)
    void manager.send(session, { round: -round }).catch(ignore)
  }
  void client.send(round % 3 === 0 ? "bad" : round, { ttl: 20 }).catch(ignore)
  await turn()
  if (round++ % 5 === 4) { for (const ws of server.clients) ws.terminate() }
}

await client.close({ timeout: "500 millis" })
await manager.gracefulShutdown()
for (const ws of server.clients) ws.terminate()
server.close()
await new Promise((resolve) => void setTimeout(resolve, 50))
console.log(JSON.stringify({ unhandled, gaveUp: failures.length > 0, tried: round > 5 }))
process.exitCode = unhandled === 0 ? 0 : 1
