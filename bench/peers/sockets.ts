/** What the peers' modules share. */
import type { Server } from "node:http"
import type { Socket } from "node:net"

/** Bytes that a socket may have buffered before its sender waits, where the sender can know. */
export const highWaterBytes = 1024 * 1024

/** Messages without an answer, for those where the sender is told of each. */
export const maxInFlight = 1_000

/** The same where each waits for a store: all of W9. */
export const maxInFlightStored = 256

/** Element of an array that must be there: a connection without a socket is a mistake of the benchmark. */
export const at = <A>(sockets: ReadonlyArray<A>, connection: number): A => {
  const socket = sockets[connection]
  if (socket === undefined) throw new Error(`connection ${connection} is not open`)
  return socket
}

/** Lets a sender go on while no more than so many messages are without an answer. */
export class InFlight {
  readonly #max: number
  #count = 0
  #resume: (() => void) | undefined

  constructor(max = maxInFlight) {
    this.#max = max
  }

  /** Counts one more; a promise when it is time to wait. */
  begin(): Promise<void> | undefined {
    if (++this.#count < this.#max) return undefined
    return new Promise((resolve) => {
      this.#resume = resolve
    })
  }

  /** One was answered. Resumes at half: a sender that comes back should have something to do. */
  readonly done = (): void => {
    if (--this.#count > this.#max / 2) return
    const resume = this.#resume
    this.#resume = undefined
    resume?.()
  }
}

/** A function that destroys all sockets of a server, for systems that hide them. */
export const makeCut = (server: Server): () => void => {
  const sockets = new Set<Socket>()
  server.on("connection", (socket: Socket) => {
    sockets.add(socket)
    socket.once("close", () => sockets.delete(socket))
  })
  return () => {
    for (const socket of sockets) socket.destroy()
  }
}
