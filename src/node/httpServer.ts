/** Makes an `http.Server` listen, and closes it when the last of those who share it is done. */
import { Effect, type Scope } from "effect"
import type { Server } from "node:http"
import type { Address } from "../Transport.ts"
import { TransportError } from "../WebSocketError.ts"

/** Listens until the scope closes, unless somebody else already made it listen. */
export const listening = (
  server: Server,
  port: number,
  host: string
): Effect.Effect<Address, TransportError, Scope.Scope> =>
  Effect.gen(function*() {
    if (!server.listening || started.has(server)) {
      yield* Effect.acquireRelease(start(server, port, host), () => stop(server))
    }
    return addressOf(server)
  })

/** The servers that we made listen, and how many users each has. */
const started = new WeakMap<Server, number>()

const start = (server: Server, port: number, host: string): Effect.Effect<void, TransportError> =>
  Effect.callback((resume) => {
    const users = started.get(server) ?? 0
    if (server.listening) {
      started.set(server, users + 1)
      return resume(Effect.void)
    }
    const failed = (cause: unknown) => {
      const detail = `can't listen on ${host}:${port}: ${cause instanceof Error ? cause.message : String(cause)}`
      resume(Effect.fail(new TransportError({ operation: "listen", detail, cause })))
    }
    const onError = (cause: Error) => {
      server.off("listening", onListening)
      starting.delete(server)
      failed(cause)
    }
    const onListening = () => {
      server.off("error", onError)
      starting.delete(server)
      started.set(server, (started.get(server) ?? 0) + 1)
      resume(Effect.void)
    }
    server.once("error", onError)
    server.once("listening", onListening)
    if (starting.has(server)) return // another layer of the program has just called `listen`
    starting.add(server)
    try {
      server.listen({ port, host, backlog: 4096 })
    } catch (cause) {
      server.off("listening", onListening)
      onError(cause instanceof Error ? cause : new Error(String(cause)))
    }
  })

/** Servers that have been asked to listen but don't yet. */
const starting = new WeakSet<Server>()

/** Closes the server once nobody needs it. Its HTTP sockets are closed; WebSockets no longer belong to it. */
const stop = (server: Server): Effect.Effect<void> =>
  Effect.sync(() => {
    const users = (started.get(server) ?? 1) - 1
    if (users > 0) return void started.set(server, users)
    started.delete(server)
    server.close()
    server.closeAllConnections()
  })

/** Where the server listens. A pipe has a path and no port. */
const addressOf = (server: Server): Address => {
  const address = server.address()
  if (address === null || typeof address === "string") return { host: address ?? "", port: 0 }
  return { host: address.address, port: address.port }
}
