/** All connections of one transport with faults, and the faults in force. */
import { Effect, FiberSet, type Scope } from "effect"
import type { Connection } from "../Transport.ts"
import { TransportError } from "../WebSocketError.ts"
import { chosen, type Direction, type Lateness } from "./delayLine.ts"
import { FaultyConnection } from "./faultyConnection.ts"
import { Losses, makeReader } from "./losing.ts"
import { Tally } from "./tally.ts"

/**
 * What has happened so far, and what is.
 *
 * @since 0.1.0
 * @category models
 */
export interface Counts {
  /** Connections that are open, as the end with the faults sees it. */
  readonly open: number
  /** Dials, or at a server the connections that came; refused ones included. */
  readonly dials: number
  /** How many of those were refused. */
  readonly refused: number
  /** Frames that a fault has lost. */
  readonly lost: number
  /** Frames that are late and still to come. Pings, their answers and closes count as well. */
  readonly late: number
}

export class FaultyNetwork {
  readonly losses = new Losses()
  isRefusing = false
  private readonly lateness: Lateness
  /** Those that an end of is still there, even if only the other one. */
  private readonly connections = new Set<FaultyConnection>()
  private readonly counted = { open: 0, dials: 0, refused: 0, lost: 0, late: 0 }
  readonly tally: Tally<Counts>

  constructor(fork: Lateness["fork"], later: Lateness["later"]) {
    this.lateness = {
      millis: { toServer: 0, toClient: 0 },
      fork,
      later,
      waiting: (difference) => this.count("late", difference)
    }
    this.tally = new Tally(() => ({ ...this.counted }), later)
  }

  // What comes.

  dial<E>(dial: Effect.Effect<Connection, E>): Effect.Effect<Connection, E | TransportError> {
    return Effect.suspend((): Effect.Effect<Connection, E | TransportError> => {
      this.count("dials")
      if (!this.isRefusing) return Effect.map(dial, (connection) => this.add(connection, "toServer"))
      this.count("refused")
      return Effect.fail(new TransportError({ operation: "dial", detail: "refused by Faults" }))
    })
  }

  accept(connection: Connection, accept: (connection: Connection) => void): void {
    this.count("dials")
    if (!this.isRefusing) return accept(this.add(connection, "toClient"))
    this.count("refused")
    connection.terminate()
  }

  private add(inner: Connection, out: Direction): Connection {
    const kindsOf = makeReader(inner.protocol)
    const connection = new FaultyConnection(inner, out, {
      lateness: this.lateness,
      loses: (direction, frame) => this.losses.take(kindsOf(direction, frame), direction),
      lost: () => this.count("lost"),
      ended: () => this.count("open", -1),
      gone: () => void this.connections.delete(connection)
    })
    this.connections.add(connection)
    this.count("open")
    return connection
  }

  // Faults.

  cut(): void {
    for (const connection of this.connections) connection.cut()
  }

  halfOpen(direction?: Direction, noticedBy?: "client" | "server"): void {
    for (const connection of this.connections) {
      if (noticedBy !== undefined) connection.breakFor(noticedBy === connection.side ? "near" : "far")
      else for (const each of chosen(direction)) connection.lose(each)
    }
  }

  delay(millis: number, direction?: Direction): void {
    for (const each of chosen(direction)) this.lateness.millis[each] = millis
  }

  heal(): void {
    this.isRefusing = false
    this.losses.clear()
    this.delay(0)
    for (const connection of this.connections) connection.heal()
  }

  /** Waits until what was to be done later has been done. */
  readonly settled: Effect.Effect<void> = Effect.callback((resume) => this.lateness.later(() => resume(Effect.void)))

  private count(what: keyof Counts, difference = 1): void {
    this.counted[what] += difference
    this.tally.changed()
  }
}

/** At the end of the scope all faults end. */
export const make: Effect.Effect<FaultyNetwork, never, Scope.Scope> = Effect.gen(function*() {
  const fork = yield* FiberSet.makeRuntime<never, void, never>()
  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  const network = new FaultyNetwork(fork, (task) => dispatcher.scheduleTask(task, 0))
  yield* Effect.addFinalizer(() => {
    network.heal()
    return network.settled
  })
  return network
})
