/**
 * What every system under measurement has to offer: a server and clients in separate processes, object to object.
 * One module in `peers/` implements it for each; the workloads know nothing else of them.
 */
import type { MessageQueue, SessionRegistry } from "../../src/index.ts"

/** About 128 bytes as JSON; `text` pads it to other sizes. */
export interface Quote {
  /** Which of its connection's messages this is, from 0: the receiver checks the row. */
  readonly i: number
  readonly connection: number
  /** When it was made, in ms of `now()`; the same clock in all processes. */
  readonly at: number
  readonly kind: "quote"
  readonly text: string
}

/** About 10 bytes as JSON: the least that can be checked. */
interface Tick {
  readonly i: number
}

export type Message = Quote | Tick

/** Which of the two a measurement sends. Systems with schemas need to know. */
export type Shape = "quote" | "tick"

/** Called for each message as it is handled, in the receiving process. */
export type Receive = (connection: number, message: Message) => void

/**
 * Messages to send as fast as the system takes them, round robin over `connections`: message `n` is number
 * `floor(n / connections)` of connection `n % connections`.
 */
export interface Plan {
  readonly count: number
  readonly connections: number
  readonly make: (n: number) => Message
}

export interface Server {
  readonly port: number
  /** Sends the plan with the system's own way of holding a fast sender back. Ends when all was handed over. */
  readonly sendMany: (plan: Plan) => Promise<void>
  /** Sends one message now. */
  readonly send: (connection: number, message: Message) => void
  /** Sends one message to connections 0 … `connections` − 1, the way the system would have it done. */
  readonly broadcast: (message: Message, connections: number) => Promise<void>
  /** Destroys the sockets of all connections at once, as a network failure would. */
  readonly cut: () => void
  /** The library's: what is behind its server. */
  readonly store?: Store | undefined
  readonly close: () => Promise<void>
}

/** To fill it with sessions and messages that have no client. */
interface Store {
  readonly queue: MessageQueue.Interface
  readonly registry: SessionRegistry.Interface
  /** What it takes outside of the process. */
  readonly bytes: () => Promise<number>
  /** Where commits wait for the disk: lets them not, while much is put in that is not measured. */
  readonly relax?: ((isRelaxed: boolean) => Promise<void>) | undefined
}

export interface Clients {
  readonly sendMany: (plan: Plan) => Promise<void>
  readonly send: (connection: number, message: Message) => void
  readonly close: () => Promise<void>
}

export interface ListenOptions {
  readonly connections: number
  readonly shape: Shape
  readonly receive: Receive
  /** Messages that must find room for one connection while it is away. Default: whatever the system has by default. */
  readonly maxQueued?: number | undefined
  /** Sessions that must find room. Default: whatever the system has by default. */
  readonly maxSessions?: number | undefined
}

export interface ConnectOptions {
  readonly port: number
  readonly connections: number
  readonly shape: Shape
  readonly receive: Receive
  /**
   * Told each time that a connection is open, the first time and after a reconnect; of the latter only where nothing
   * else shows it. Systems that do not reconnect by themselves are made to, as a competent user would.
   */
  readonly opened?: ((connection: number) => void) | undefined
}

export interface Peer {
  readonly listen: (options: ListenOptions) => Promise<Server>
  /** Opens connections 0 … `connections` − 1. Ends when all are open and the server knows each by its number. */
  readonly connect: (options: ConnectOptions) => Promise<Clients>
}
