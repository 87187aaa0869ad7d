/** All connections through the fault proxy, and the faults in force. */
import { Effect, FiberSet, type Scope } from "effect"
import { connect, createServer, type Server, type Socket } from "node:net"
import type { Address } from "../../Transport.ts"
import { TransportError } from "../../WebSocketError.ts"
import { chosen, type Direction, type Lateness } from "../delayLine.ts"
import { Tally } from "../tally.ts"
import { ignore, Link, type Strike } from "./proxyLink.ts"

/**
 * What happened so far.
 *
 * @since 0.1.0
 * @category models
 */
export interface Counts {
  /** All faults: cuts + stalls + halfOpens + refusals. */
  readonly faults: number
  /** Connections that were cut. */
  readonly cuts: number
  /** How many of the cuts were resets (RST) instead of closes (FIN). */
  readonly resets: number
  readonly stalls: number
  /** Connections that were made half-open. */
  readonly halfOpens: number
  /** Times during which dials were refused, and how many dials that hit. */
  readonly refusals: number
  readonly refusedDials: number
  /** Connections accepted and forwarded, and those that are open now. */
  readonly connections: number
  readonly open: number
  /** Connections given up because the target could not be reached. */
  readonly unreachable: number
  /** Bytes forwarded, both ways. */
  readonly bytes: number
}

/** What the faults at random learn of links. */
export interface Watcher {
  readonly opened: (link: Link) => void
  readonly closed: (link: Link) => void
  readonly givenUp: (link: Link) => void
}

export class Traffic {
  readonly links = new Set<Link>()
  readonly tally: Tally<Counts>
  private readonly lateness: Lateness
  private readonly target: () => Address | undefined
  private readonly watcher: Watcher
  private readonly counted = {
    cuts: 0,
    resets: 0,
    stalls: 0,
    halfOpens: 0,
    refusals: 0,
    refusedDials: 0,
    connections: 0,
    unreachable: 0,
    bytes: 0
  }
  /** How many refusals are in force. */
  private refusing = 0

  constructor(
    target: () => Address | undefined,
    watcher: Watcher,
    { fork, later }: Pick<Lateness, "fork" | "later">
  ) {
    this.target = target
    this.watcher = watcher
    this.lateness = { millis: { toServer: 0, toClient: 0 }, fork, later, waiting: ignore }
    this.tally = new Tally(() => this.counts(), later)
  }

  accept(client: Socket): void {
    client.on("error", ignore)
    if (this.refusing > 0) {
      this.count("refusedDials")
      client.destroy()
      return
    }
    const target = this.target()
    if (target === undefined) {
      this.count("unreachable")
      client.destroy()
      return
    }
    const upstream = connect({ host: target.host, port: target.port, allowHalfOpen: true, noDelay: true })
    const link = new Link(client, upstream, this.lateness, {
      opened: () => {
        this.count("connections")
        this.watcher.opened(link)
      },
      forwarded: (bytes) => this.count("bytes", bytes),
      struck: (strike) => this.struck(strike),
      givenUp: () => this.watcher.givenUp(link),
      closed: (wasOpen) => {
        this.watcher.closed(link)
        this.links.delete(link)
        this.count("unreachable", wasOpen ? 0 : 1)
      }
    })
    this.links.add(link)
  }

  cut(): Effect.Effect<void> {
    const links = [...this.links]
    this.count("cuts", links.length)
    for (const link of links) link.destroy()
    return Effect.promise(() => Promise.all(links.map(({ closed }) => closed)))
  }

  halfOpen(direction?: Direction): void {
    this.count("halfOpens", this.links.size)
    for (const link of this.links) link.lose(chosen(direction))
  }

  delay(millis: number, direction?: Direction): void {
    for (const each of chosen(direction)) this.lateness.millis[each] = millis
  }

  /** Until the function that it returns is called. */
  refuse(): () => void {
    this.count("refusals")
    this.refusing++
    return () => void this.refusing--
  }

  stall(link: Link): void {
    this.count("stalls")
    link.stall()
  }

  /** Ends what lasts, but for refusals and stalls. */
  heal(): Effect.Effect<void> {
    this.delay(0)
    const halfOpen = [...this.links].filter((link) => link.isHalfOpen)
    for (const link of this.links) link.hurry()
    for (const link of halfOpen) link.destroy()
    return Effect.promise(() => Promise.all(halfOpen.map(({ closed }) => closed)))
  }

  private struck(strike: Strike): void {
    this.count(strike.kind === "halfOpen" ? "halfOpens" : "cuts")
    if (strike.kind === "cut" && strike.reset) this.count("resets")
  }

  private count(what: keyof Traffic["counted"], difference = 1): void {
    this.counted[what] += difference
    this.tally.changed()
  }

  private counts(): Counts {
    const { counted } = this
    return {
      ...counted,
      faults: counted.cuts + counted.stalls + counted.halfOpens + counted.refusals,
      open: this.links.size
    }
  }
}

/** What traffic needs of the scope that it lives in. */
export const surroundings = Effect.gen(function*() {
  const fork = yield* FiberSet.makeRuntime<never, void, never>()
  const dispatcher = yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
  return { fork, later: (task: () => void) => dispatcher.scheduleTask(task, 0) }
})

/** Listens. The end of the scope destroys every link and waits until all sockets are closed. */
export const listen = (
  host: string,
  port: number,
  traffic: Traffic
): Effect.Effect<Address, TransportError, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      start(host, port, (client) => traffic.accept(client)),
      (server) =>
        Effect.promise(async () => {
          const closed = new Promise<void>((resolve) => server.close(() => resolve()))
          const open = [...traffic.links]
          for (const link of open) link.destroy()
          await Promise.all([closed, ...open.map((link) => link.closed)])
        })
    ),
    (server) => {
      const address = server.address()
      // `address()` is a string only for a pipe, and null only for a closed server.
      return { host, port: address === null || typeof address === "string" ? 0 : address.port }
    }
  )

const start = (
  host: string,
  port: number,
  accept: (client: Socket) => void
): Effect.Effect<Server, TransportError> =>
  Effect.callback((resume) => {
    const server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, accept)
    server.once("error", (cause) => {
      const detail = `can't listen on ${host}:${port}: ${cause.message}`
      resume(Effect.fail(new TransportError({ operation: "listen", detail, cause })))
    })
    // A stampede of 1,000 clients must not overrun the default backlog of 511.
    server.listen({ host, port, backlog: 4096 }, () => {
      // Later errors are failed accepts (out of file descriptors): the client sees them, the proxy goes on.
      server.on("error", ignore)
      resume(Effect.succeed(server))
    })
    return Effect.sync(() => server.close())
  })
