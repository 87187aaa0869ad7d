/**
 * One process of a pair, as the functions that main calls in it see it. Each is given the side first and its arguments,
 * which came as JSON, second; what it returns goes back as JSON.
 */
import type { Clients, Peer, Receive, Server } from "./Peer.ts"
import type { Verifier } from "./Verifier.ts"

export interface Side {
  readonly peer: Peer
  /** When this process has the server. */
  server: Server | undefined
  /** When it has the clients. */
  clients: Clients | undefined
  /** What the peer calls for each message that was handled; replaced for each part of a measurement. */
  receive: Receive
  /** Told of each opened connection, where this process has the clients. */
  opened: (connection: number) => void
  verifier: Verifier | undefined
  /** `process.cpuUsage()` at the beginning of the part that is measured. */
  cpuAtStart: NodeJS.CpuUsage
  /** The same of the processes that this one has started, in seconds. */
  ownedCpuAtStart: number
}

export const makeSide = (peer: Peer): Side => ({
  peer,
  server: undefined,
  clients: undefined,
  receive: () => {},
  opened: () => {},
  verifier: undefined,
  cpuAtStart: process.cpuUsage(),
  ownedCpuAtStart: 0
})

type Arguments<F> = F extends (side: Side, args: infer A) => unknown ? A : never
type Answer<F> = F extends (...args: never) => infer R ? Awaited<R> : never

/** The functions of a module as main sees them. */
export type Calls<M> = {
  readonly [K in keyof M as M[K] extends (side: Side, args: never) => unknown ? K : never]: (
    ...args: unknown extends Arguments<M[K]> ? [] : [args: Arguments<M[K]>]
  ) => Promise<Answer<M[K]>>
}

/** From main to the child. */
export interface Request {
  readonly id: number
  /** Address of the module. */
  readonly module: string
  readonly name: string
  readonly args: unknown
}

/** From the child to main: an answer, or a process or folder that must not outlive it. */
export type Response =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: string }
  | { readonly owns: number }
  | { readonly ownsFolder: string }
