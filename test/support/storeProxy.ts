/** A TCP proxy between a store and its database, which holds everything up or loses answers when a test says so. */
import { Effect, type Scope } from "effect"
import { once } from "node:events"
import { connect, createServer, type Socket } from "node:net"

export interface StoreProxy {
  readonly port: number
  /** Nothing passes, either way, until `flow`; connections stay. */
  readonly stall: () => void
  readonly flow: () => void
  /** The next answer of the database, on whatever connection, is lost, and the connection with it. */
  readonly loseAnswer: () => void
  /** How many answers were lost. */
  readonly lost: () => number
}

export const makeStoreProxy = (port: number): Effect.Effect<StoreProxy, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(() => Proxy.listen(port)),
      (proxy) => Effect.promise(() => proxy.close())
    ),
    (proxy) => proxy
  )

class Proxy implements StoreProxy {
  port = 0
  readonly #sockets = new Set<Socket>()
  readonly #server
  #isStalled = false
  #toLose = 0
  #lost = 0

  static async listen(target: number): Promise<Proxy> {
    const proxy = new Proxy(target)
    proxy.#server.listen(0, "127.0.0.1")
    await once(proxy.#server, "listening")
    const address = proxy.#server.address()
    if (typeof address === "object" && address !== null) proxy.port = address.port
    return proxy
  }

  constructor(target: number) {
    this.#server = createServer((client) => {
      const database = connect(target, "127.0.0.1")
      this.#forward(client, database, () => false)
      this.#forward(database, client, () => this.#loses())
    })
  }

  readonly stall = (): void => {
    this.#isStalled = true
    for (const socket of this.#sockets) socket.pause()
  }

  readonly flow = (): void => {
    this.#isStalled = false
    for (const socket of this.#sockets) socket.resume()
  }

  readonly loseAnswer = (): void => void this.#toLose++
  readonly lost = (): number => this.#lost

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, "close")
  }

  #loses(): boolean {
    if (this.#toLose === 0) return false
    this.#toLose--
    this.#lost++
    return true
  }

  #forward(from: Socket, to: Socket, loses: () => boolean): void {
    this.#sockets.add(from)
    from.on("data", (data) => {
      if (!loses()) return void to.write(data)
      from.destroy()
      to.destroy()
    })
    from.on("error", () => to.destroy())
    from.on("close", () => {
      this.#sockets.delete(from)
      to.destroy()
    })
    if (this.#isStalled) from.pause()
  }
}
