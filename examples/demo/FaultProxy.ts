/**
 * A TCP proxy that breaks connections on purpose, as a scoped resource. It knows nothing of WebSockets: it
 * forwards bytes, with backpressure, and from time to time does to them what networks do (see {@link Fault}).
 *
 * **Details**
 *
 * - The nth fault's kind and parameters depend on the seed and n alone ({@link planFault}), and so do the gaps
 *   between faults. Which bytes are in flight when it strikes is up to the machine.
 * - A fault that needs a connection waits for one, so every fault that is counted hit something.
 * - All times are on Effect's clock; closing the scope destroys every socket and ends every timer.
 *
 * **Gotchas**
 *
 * A half-open connection is never closed by the proxy before one of its sides gave it up: only heartbeats find it.
 */
import { Clock, Duration, Effect, FiberSet, Latch, Schema } from "effect"
import type { Fiber, Scope } from "effect"
import * as Net from "node:net"
import * as Prng from "./Prng.ts"

export type FaultKind = "cut" | "stall" | "halfOpen" | "refuse"

/** `victim` in [0, 1) picks a connection, `at` in [0, 1) a byte of the next chunk. */
export type Fault =
  /** Both sides are closed (or reset) in the middle of a chunk, whose rest is lost. */
  | { readonly kind: "cut"; readonly n: number; readonly victim: number; readonly at: number; readonly reset: boolean }
  /** Nothing is read or written, either way, for `millis`; then everything goes on. */
  | { readonly kind: "stall"; readonly n: number; readonly victim: number; readonly millis: number }
  /** From the middle of a chunk on, bytes are swallowed both ways; the sockets stay open. */
  | { readonly kind: "halfOpen"; readonly n: number; readonly victim: number; readonly at: number }
  /** New connections are destroyed at once for `millis`. */
  | { readonly kind: "refuse"; readonly n: number; readonly millis: number }

/** How often each kind comes, as weights: they need not add up to anything. */
export type Mix = Readonly<Record<FaultKind, number>>

export const defaultMix: Mix = { cut: 70, stall: 15, halfOpen: 5, refuse: 10 }

export interface Target {
  readonly host: string
  readonly port: number
}

export interface Options {
  /** Or what picks one for each new connection, as a load balancer does; without any the dial fails. */
  readonly target: Target | (() => Target | undefined)
  /** A whole number, of which the low 32 bits count; the same seed gives the same faults. */
  readonly seed: number
  /** The mean rate, 0 for none but those asked for by `faultNow`. */
  readonly faultsPerMinute: number
  readonly mix?: Mix | undefined
  /** A connection is safe from faults for a random time up to this. Default 150 ms. */
  readonly connectionGrace?: Duration.Input | undefined
  /** How long the other side of a half-open connection may go on once one side gave it up. Default 5 seconds. */
  readonly halfOpenLinger?: Duration.Input | undefined
}

/** What happened so far. */
export interface Counts {
  /** All faults: cuts + stalls + halfOpens + refusals. */
  readonly faults: number
  readonly cuts: number
  /** How many of the cuts were resets (RST) instead of closes (FIN). */
  readonly resets: number
  readonly stalls: number
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

export interface FaultProxy {
  /** On 127.0.0.1. */
  readonly port: number
  readonly counts: Effect.Effect<Counts>
  /** Destroys new connections for a time; counted as a refusal. Returns at once. */
  readonly refuseDials: (duration: Duration.Input) => Effect.Effect<void>
  /**
   * Injects the next fault of the plan now, with its kind replaced if one is given. Waits until there is a
   * connection to hit. A cut or half-open then strikes at the next chunk, or after 50 ms without one.
   */
  readonly faultNow: (kind?: FaultKind) => Effect.Effect<Fault>
  /** No more planned faults; ends stalls and refusals. Forwarding goes on until the scope closes. */
  readonly stop: Effect.Effect<void>
}

export class FaultProxyError extends Schema.TaggedError<FaultProxyError>("demo/FaultProxyError")("FaultProxyError", {
  reason: Schema.Literals(["listen", "options"]),
  detail: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message() {
    return `fault proxy (${this.reason}): ${this.detail}`
  }
}

const idleMillis = 50
/** After a pause of this process, at most this much of the missed schedule is caught up in a burst. */
const catchUpMillis = 1000
const gapsStream = 0xffff_ffff
const graceStream = 0xffff_fffe

/** The nth fault (from 0) under a seed; a pure function. */
export const planFault = (seed: number, n: number, mix: Mix = defaultMix, kind?: FaultKind): Fault => {
  const random = Prng.make(seed, n)
  // Every number is drawn in this order whatever the kind, so that an overridden kind shifts nothing.
  const drawn = pickKind(mix, random.next())
  const victim = random.next()
  const at = random.next()
  const reset = random.next() < 0.3
  const stallMillis = random.between(50, 800)
  const refuseMillis = random.between(50, 500)
  switch (kind ?? drawn) {
    case "cut":
      return { kind: "cut", n, victim, at, reset }
    case "stall":
      return { kind: "stall", n, victim, millis: stallMillis }
    case "halfOpen":
      return { kind: "halfOpen", n, victim, at }
    case "refuse":
      return { kind: "refuse", n, millis: refuseMillis }
  }
}

const pickKind = (mix: Mix, point: number): FaultKind => {
  let left = point * (mix.cut + mix.stall + mix.halfOpen + mix.refuse)
  if ((left -= mix.cut) < 0) return "cut"
  if ((left -= mix.stall) < 0) return "stall"
  if ((left -= mix.halfOpen) < 0) return "halfOpen"
  return "refuse"
}

/** Makes a proxy and starts its faults. They, and all connections, end with the scope. */
export const make = Effect.fnUntraced(
  function*(options: Options): Effect.fn.Return<FaultProxy, FaultProxyError, Scope.Scope> {
    yield* validate(options)
    const { seed, mix = defaultMix } = options
    const graceMillis = Duration.toMillis(Duration.fromInputUnsafe(options.connectionGrace ?? 150))
    const linger = options.halfOpenLinger ?? "5 seconds"
    const runLinger = yield* FiberSet.makeRuntime<never, void, never>()
    const runGrace = yield* FiberSet.makeRuntime<never, void, never>()
    const windows = yield* FiberSet.make<void, never>()
    const counts = {
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
    let refusing = 0

    const targets = new Targets()
    const server = yield* listen({
      accept: (client, links) => {
        if (refusing > 0) {
          counts.refusedDials++
          client.destroy()
          return
        }
        const target = typeof options.target === "function" ? options.target() : options.target
        if (target === undefined) {
          counts.unreachable++
          client.destroy()
          return
        }
        const upstream = Net.connect({ host: target.host, port: target.port, allowHalfOpen: true, noDelay: true })
        const link = new Link(client, upstream, {
          opened: () => {
            counts.connections++
            // Faults that wait for a connection must not strike it the moment it is there: with few clients none
            // would ever get through its handshake. Some do strike that early.
            const grace = Prng.make(seed, graceStream, counts.connections).between(0, graceMillis)
            if (grace === 0) targets.add(link)
            else runGrace(Effect.andThen(Effect.sleep(grace), Effect.sync(() => targets.add(link))))
          },
          forwarded: (bytes) => {
            counts.bytes += bytes
          },
          struck: (strike) => {
            if (strike.kind === "halfOpen") counts.halfOpens++
            else counts.cuts++
            if (strike.kind === "cut" && strike.reset) counts.resets++
          },
          givenUp: () => void runLinger(Effect.andThen(Effect.sleep(linger), Effect.sync(() => link.destroy()))),
          closed: (wasOpen) => {
            if (!wasOpen) counts.unreachable++
            targets.delete(link)
            links.delete(link)
          }
        })
        links.add(link)
      }
    })

    /** Holds a condition for a time, or until `stop` or the end of the scope. */
    const hold = (millis: number, end: () => void): Effect.Effect<Fiber.Fiber<void>> =>
      FiberSet.run(windows, Effect.ensuring(Effect.sleep(millis), Effect.sync(end)))

    const refuse = (millis: number): Effect.Effect<void> =>
      Effect.suspend(() => {
        counts.refusals++
        refusing++
        return Effect.asVoid(hold(millis, () => refusing--))
      })

    const stall = (link: Link, millis: number): Effect.Effect<void> =>
      Effect.suspend(() => {
        counts.stalls++
        link.stall()
        return Effect.asVoid(hold(millis, () => link.endStall()))
      })

    const strike = (link: Link, fault: Strike): Effect.Effect<void> =>
      Effect.suspend(() => {
        // Until it has struck, no other fault may choose this connection: each would strike at once with it.
        targets.delete(link)
        link.arm(fault)
        return FiberSet.run(
          windows,
          Effect.sleep(idleMillis).pipe(
            Effect.andThen(Effect.sync(() => link.strikeNow())),
            Effect.onInterrupt(() => Effect.sync(() => link.disarm() && targets.add(link)))
          )
        ).pipe(Effect.asVoid)
      })

    const apply = Effect.fnUntraced(function*(fault: Fault) {
      if (fault.kind === "refuse") return yield* refuse(fault.millis)
      const link = yield* targets.pick(fault.victim)
      return yield* fault.kind === "stall" ? stall(link, fault.millis) : strike(link, fault)
    })

    let n = 0
    const faultNow = (kind?: FaultKind): Effect.Effect<Fault> =>
      Effect.suspend(() => {
        const fault = planFault(seed, n++, mix, kind)
        return Effect.as(apply(fault), fault)
      })

    const scheduled = Effect.gen(function*() {
      const gaps = Prng.make(seed, gapsStream)
      const mean = 60_000 / options.faultsPerMinute
      let due = yield* Clock.currentTimeMillis
      while (true) {
        due += gaps.exponential() * mean
        const now = yield* Clock.currentTimeMillis
        due = Math.max(due, now - catchUpMillis)
        yield* Effect.sleep(Math.max(0, due - now))
        yield* faultNow()
      }
    })
    const schedule = yield* FiberSet.make<void, never>()
    if (options.faultsPerMinute > 0) yield* FiberSet.run(schedule, scheduled)

    return {
      port: server.port,
      counts: Effect.sync(() => ({
        ...counts,
        faults: counts.cuts + counts.stalls + counts.halfOpens + counts.refusals,
        open: server.links.size
      })),
      refuseDials: (duration) => refuse(Duration.toMillis(Duration.fromInputUnsafe(duration))),
      faultNow,
      stop: Effect.andThen(FiberSet.clear(schedule), FiberSet.clear(windows))
    }
  }
)

const validate = (options: Options): Effect.Effect<void, FaultProxyError> => {
  const fail = (detail: string) => Effect.fail(new FaultProxyError({ reason: "options", detail }))
  const weights = Object.values(options.mix ?? defaultMix)
  if (!Number.isSafeInteger(options.seed)) return fail(`seed must be a whole number, not ${options.seed}`)
  if (!(options.faultsPerMinute >= 0 && Number.isFinite(options.faultsPerMinute))) {
    return fail(`faultsPerMinute must be 0 or more, not ${options.faultsPerMinute}`)
  }
  if (!weights.every((weight) => weight >= 0 && Number.isFinite(weight)) || !weights.some((weight) => weight > 0)) {
    return fail("mix must hold weights of 0 or more, not all of them 0")
  }
  return Effect.void
}

interface Listening {
  readonly port: number
  readonly links: Set<Link>
}

/** A listening server on a free port; its release destroys every link and waits until all sockets are closed. */
const listen = (options: {
  readonly accept: (client: Net.Socket, links: Set<Link>) => void
}): Effect.Effect<Listening, FaultProxyError, Scope.Scope> => {
  const links = new Set<Link>()
  const acquire = Effect.callback<Net.Server, FaultProxyError>((resume) => {
    const server = Net.createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (client) => {
      client.on("error", ignore)
      options.accept(client, links)
    })
    server.once(
      "error",
      (cause) => resume(Effect.fail(new FaultProxyError({ reason: "listen", detail: cause.message, cause })))
    )
    // A stampede of 1,000 clients must not overrun the default backlog of 511.
    server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
      // Later errors are failed accepts (out of file descriptors): the client sees them, the proxy goes on.
      server.on("error", ignore)
      resume(Effect.succeed(server))
    })
    return Effect.sync(() => server.close())
  })
  const release = (server: Net.Server) =>
    Effect.promise(async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      const open = [...links]
      for (const link of open) link.destroy()
      await Promise.all([closed, ...open.map((link) => link.closed)])
    })
  return Effect.map(Effect.acquireRelease(acquire, release), (server) => {
    const address = server.address()
    // `address()` is a string only for a pipe, and null only for a closed server.
    return { port: address === null || typeof address === "string" ? 0 : address.port, links }
  })
}

/** The links that a fault may choose, with an O(1) random pick that waits while there is none. */
class Targets {
  readonly #links: Array<Link> = []
  readonly #some = Latch.makeUnsafe(false)

  add(link: Link): void {
    if (link.slot >= 0 || link.isClosing) return
    link.slot = this.#links.push(link) - 1
    this.#some.openUnsafe()
  }

  delete(link: Link): void {
    const last = this.#links.at(-1)
    if (link.slot < 0 || last === undefined) return
    this.#links[link.slot] = last
    last.slot = link.slot
    this.#links.pop()
    link.slot = -1
    if (this.#links.length === 0) this.#some.closeUnsafe()
  }

  pick(victim: number): Effect.Effect<Link> {
    return Effect.flatMap(this.#some.await, () => {
      const link = this.#links[Math.floor(victim * this.#links.length)]
      // It may have gone between the latch's opening and now.
      return link === undefined ? this.pick(victim) : Effect.succeed(link)
    })
  }
}

type Strike = Extract<Fault, { readonly kind: "cut" | "halfOpen" }>

interface LinkEvents {
  readonly opened: () => void
  readonly forwarded: (bytes: number) => void
  readonly struck: (strike: Strike) => void
  /** One side of a half-open link gave it up. */
  readonly givenUp: () => void
  readonly closed: (wasOpen: boolean) => void
}

/** One client's socket and its counterpart to the target, and what is being done to them. */
class Link {
  /** The place among {@link Targets}, -1 if it is not one of them. */
  slot = -1
  readonly closed: Promise<void>
  readonly #client: Net.Socket
  readonly #upstream: Net.Socket
  readonly #events: LinkEvents
  #wasOpen = false
  #stalls = 0
  #armed: Strike | undefined
  #swallowing = false
  /** Of a half-open link, the sides that have given up. */
  readonly #gone = new Set<Net.Socket>()

  constructor(client: Net.Socket, upstream: Net.Socket, events: LinkEvents) {
    this.#client = client
    this.#upstream = upstream
    this.#events = events
    upstream.on("error", ignore)
    upstream.once("connect", () => {
      this.#wasOpen = true
      this.#pipe(client, upstream)
      this.#pipe(upstream, client)
      this.#flow()
      events.opened()
    })
    const socketClosed = (socket: Net.Socket, other: Net.Socket) =>
      new Promise<void>((resolve) =>
        socket.once("close", () => {
          this.#sideClosed(socket, other)
          resolve()
        })
      )
    this.closed = Promise.all([socketClosed(client, upstream), socketClosed(upstream, client)])
      .then(() => events.closed(this.#wasOpen))
  }

  get isClosing(): boolean {
    return this.#client.destroyed || this.#upstream.destroyed
  }

  stall(): void {
    this.#stalls++
    this.#flow()
  }

  endStall(): void {
    this.#stalls--
    this.#flow()
  }

  /** The next chunk, of either direction, is forwarded up to a random byte; then the strike happens. */
  arm(strike: Strike): void {
    this.#armed = strike
  }

  /** Takes an armed strike back; false if it has happened already. */
  disarm(): boolean {
    const wasArmed = this.#armed !== undefined
    this.#armed = undefined
    return wasArmed
  }

  strikeNow(): void {
    const strike = this.#armed
    if (strike === undefined || this.isClosing) return
    this.#armed = undefined
    this.#events.struck(strike)
    if (strike.kind === "halfOpen") {
      this.#swallowing = true
      this.#flow()
    } else if (strike.reset) {
      this.#client.resetAndDestroy()
      this.#upstream.resetAndDestroy()
    } else {
      this.destroy()
    }
  }

  destroy(): void {
    this.#client.destroy()
    this.#upstream.destroy()
  }

  #pipe(from: Net.Socket, to: Net.Socket): void {
    from.on("data", (chunk) => {
      if (this.#swallowing) return
      const part = this.#armed === undefined ? chunk : chunk.subarray(0, Math.floor(this.#armed.at * chunk.length))
      this.#events.forwarded(part.length)
      const drained = to.write(part)
      // Node hands a write to the kernel before `write` returns unless earlier ones wait, so a cut now loses the
      // rest of the chunk and what was queued: a suffix.
      if (this.#armed !== undefined) this.strikeNow()
      else if (!drained) from.pause()
    })
    to.on("drain", () => this.#flow())
    from.on("end", () => {
      if (this.#swallowing) this.#giveUp(from)
      else to.end()
    })
  }

  /** Reads from each side if the other can take it, and nothing is stalled. */
  #flow(): void {
    if (!this.#wasOpen || this.isClosing) return
    const read = (from: Net.Socket, to: Net.Socket) => {
      if (this.#swallowing || (this.#stalls === 0 && !to.writableNeedDrain)) from.resume()
      else from.pause()
    }
    read(this.#client, this.#upstream)
    read(this.#upstream, this.#client)
  }

  #sideClosed(socket: Net.Socket, other: Net.Socket): void {
    if (this.#swallowing) return this.#giveUp(socket)
    // Ended both ways, the other side closes by itself once it has written what it was given.
    if (other.destroyed || (other.readableEnded && other.writableEnded)) return
    other.resetAndDestroy()
  }

  /** A half-open link: the side is gone, and the other must not learn of it from us before it is, or lingered. */
  #giveUp(side: Net.Socket): void {
    const isFirst = this.#gone.size === 0
    this.#gone.add(side)
    if (this.#gone.size === 2) this.destroy()
    else if (isFirst) this.#events.givenUp()
  }
}

const ignore = () => {}
