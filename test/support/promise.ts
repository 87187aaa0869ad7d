/** Programs without Effect in tests: a `ws` server of their own, plain peers, a manager whose time is the test's. */
import { assert } from "@effect/vitest"
import { Clock, Context, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { once } from "node:events"
import type { IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import { onTestFinished } from "vitest"
import { type RawData, WebSocket, WebSocketServer } from "ws"
import { MemoryStore } from "../../src/index.ts"
import type { ManagerOptions } from "../../src/promise/managerOptions.ts"
import type { ManagerEvents } from "../../src/promise/models.ts"
import { ResilientWebSocketManager } from "../../src/promise/ResilientWebSocketManager.ts"
import { serviceOptions, type Services } from "../../src/promise/stores.ts"

/** Waits until it holds. Looks at it again with each turn of the event loop; gives up, by its name, when it never comes. */
export const until = async (what: string, condition: () => unknown): Promise<void> => {
  const giveUpAt = performance.now() + 400_000
  while (!(await condition())) {
    if (performance.now() > giveUpAt) assert.fail(`waited in vain: ${what}`)
    await turn()
  }
}

/** One turn of the event loop, and a little time: others need the processor. */
export const turn = (): Promise<void> => new Promise((resolve) => void setTimeout(resolve, 1))

/** A `ws` server on a free port, or the given one, closed with the test. `accept` is called with each socket that it accepts. */
export const listen = async (accept: (ws: WebSocket, request: IncomingMessage) => unknown, port = 0) => {
  const server = new WebSocketServer({ host: "127.0.0.1", port })
  server.on("connection", accept)
  await once(server, "listening")
  onTestFinished(() => {
    for (const ws of server.clients) ws.terminate()
    server.close()
  })
  return { server, url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}` } // it listens on TCP
}

/** A plain WebSocket, and what it was told, as values. */
export const plainPeer = async (url: string) => {
  const ws = new WebSocket(url)
  const got: Array<unknown> = []
  ws.on("message", (data: RawData) => got.push(JSON.parse(String(data))))
  onTestFinished(() => ws.terminate())
  await once(ws, "open")
  return { ws, got }
}

/** A manager that is shut down with the test. */
export const makeManager = async (options: ManagerOptions<unknown, unknown> = {}) => {
  const manager = await ResilientWebSocketManager.make<unknown, unknown>({ log: false, ...options })
  onTestFinished(() => manager.gracefulShutdown({ timeout: "1 second" }).then(() => {}))
  return manager
}

/** A manager on a store of the test's. */
const makeManagerOn = async (
  options: ManagerOptions<unknown, unknown>,
  store: Layer.Layer<Services, unknown>
) => {
  const manager = await ResilientWebSocketManager.makeOn<unknown, unknown>({ log: false, ...options }, store)
  onTestFinished(() => manager.gracefulShutdown({ timeout: "1 second" }).then(() => {}))
  return manager
}

/** A manager in memory, whose clock stands still until it is adjusted. */
export const makeTimed = async (options: ManagerOptions<unknown, unknown>) => {
  let clock: TestClock.TestClock | undefined
  const time = Layer.effectContext(Effect.map(TestClock.make(), (made) => {
    clock = made
    return Context.make(Clock.Clock, made)
  }))
  const store = MemoryStore.layer(serviceOptions(options)).pipe(Layer.provideMerge(time))
  const manager = await makeManagerOn(options, store)
  return {
    manager,
    adjust: (millis: number) => Effect.runPromise(clock?.adjust(millis) ?? assert.fail("there is no clock"))
  }
}

/** Collects what a manager tells. */
export const collected = <Name extends keyof ManagerEvents<unknown, unknown>>(
  manager: ResilientWebSocketManager,
  event: Name
): Array<ManagerEvents<unknown, unknown>[Name]> => {
  const values: Array<ManagerEvents<unknown, unknown>[Name]> = []
  manager.on(event, (value) => values.push(value))
  return values
}

/** What a promise rejects with. */
export const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(() => assert.fail("it was not rejected"), (error: unknown) => error)
