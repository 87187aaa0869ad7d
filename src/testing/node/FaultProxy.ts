/**
 * A TCP proxy that breaks connections on purpose: faults that a test names, and faults at random, by a seed.
 *
 * **Details.** It knows nothing of WebSockets. It forwards bytes, with backpressure, and does to them what networks do:
 * between clients and a server, or between a server and its database, in this process or in others. All times are on
 * Effect's Clock. Closing the scope destroys every socket and ends every timer. For faults of single frames, or without
 * sockets, see `Faults` of `resilient-websocket/testing`.
 *
 * Of the faults at random, the nth one's kind and parameters depend on the seed and n alone (`planFault`), and so do the
 * gaps between them. Which bytes are under way when it strikes is up to the machine. A fault that needs a connection
 * waits for one, so that every fault that is counted hit something.
 *
 * **Gotchas.** A half-open connection is never closed by the proxy before one of its sides gave it up: only heartbeats
 * find it.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { FaultProxy } from "resilient-websocket/testing/node"
 *
 * const program = Effect.gen(function*() {
 *   const proxy = yield* FaultProxy.make({ target: { host: "127.0.0.1", port: 8080 } })
 *   yield* Effect.log(`clients dial ${proxy.url}`)
 *   yield* proxy.refuse
 *   yield* proxy.cut
 *   yield* proxy.awaitCounts(({ refusedDials }) => refusedDials > 0)
 *   yield* proxy.heal
 * })
 * ```
 *
 * @since 0.1.0
 */
import { type Duration, Effect, type Fiber, FiberSet, Predicate, type Scope } from "effect"
import * as Check from "../../internal/kit/options.ts"
import { steady } from "../../internal/kit/time.ts"
import type { Address } from "../../Transport.ts"
import type { TransportError } from "../../WebSocketError.ts"
import { delayMillis, type Direction } from "../delayLine.ts"
import { defaultMix, type Fault, type FaultKind, type Mix, planFault } from "./faultPlan.ts"
import * as Prng from "./prng.ts"
import { type Link, type Strike, Targets } from "./proxyLink.ts"
import { type Counts, listen, surroundings, Traffic } from "./proxyTraffic.ts"

export type { Direction } from "../delayLine.ts"
export { defaultMix, type Fault, type FaultKind, type Mix, planFault } from "./faultPlan.ts"
export type { Counts } from "./proxyTraffic.ts"

/**
 * What to forward to, and which faults come by themselves.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** Where connections go, or what picks that for each new one; one for which it picks none fails. */
  readonly target: Address | (() => Address | undefined)
  /** Where to listen. Default: 127.0.0.1. */
  readonly host?: string | undefined
  /** On which port. Default: 0, which takes a free one. */
  readonly port?: number | undefined
  /** How many faults come at random, on average. Default 0. */
  readonly faultsPerMinute?: number | undefined
  /** The same seed gives the same faults at random; its low 32 bits count. Default 0. */
  readonly seed?: number | undefined
  /** How often each kind of fault comes, as weights. Default: cut 70, stall 15, halfOpen 5, refuse 10. */
  readonly mix?: Mix | undefined
  /** A new connection is safe from faults at random for a random time up to this. Default 150 ms. */
  readonly connectionGrace?: Duration.Input | undefined
  /** How long the other side of a half-open connection may go on once one side gave it up. Default 5 seconds. */
  readonly halfOpenLinger?: Duration.Input | undefined
}

const isWhole = (value: unknown): boolean => Number.isSafeInteger(value) && Number(value) >= 0
const isWeight = (value: unknown): boolean => typeof value === "number" && value >= 0 && value < Infinity
const isMix = (value: unknown): boolean => {
  if (typeof value !== "object" || value === null) return false
  const weights = Object.keys(defaultMix).map((kind) => Reflect.get(value, kind))
  return weights.every(isWeight) && weights.some((weight) => weight > 0)
}
const isAddress = (value: unknown): boolean =>
  Predicate.hasProperty(value, "host") && typeof value.host === "string" &&
  Predicate.hasProperty(value, "port") && isWhole(value.port)
const isFunction = (value: unknown): boolean => typeof value === "function"
// The cast: it takes any value, and gives NaN for what is no duration.
const isDuration = (value: unknown): boolean => Check.millisOf(value as Duration.Input) >= 0

const shape: Check.Shape<Options> = {
  target: Check.either("host and port, or a function", isAddress, isFunction),
  host: Check.nonEmpty,
  port: Check.either("a whole number of at least 0", isWhole),
  faultsPerMinute: Check.either("a whole number of at least 0", isWhole),
  seed: Check.either("a whole number of at least 0", isWhole),
  mix: Check.either("weights of 0 or more, not all of them 0", isMix),
  connectionGrace: Check.either("a duration", isDuration),
  halfOpenLinger: Check.either("a duration", isDuration)
}

/**
 * A proxy that runs. `cut`, `halfOpen` and `delay` hit all connections, and faults at random hit one each.
 *
 * @since 0.1.0
 * @category models
 */
export interface FaultProxy {
  readonly host: string
  readonly port: number
  /** `ws://` with host and port. */
  readonly url: string
  /** Ends all connections at both sides, as a cut of the network that both notice. New ones may come at once. */
  readonly cut: Effect.Effect<void>
  /** New connections are destroyed as they come, until `heal`. */
  readonly refuse: Effect.Effect<void>
  /**
   * From now on, the bytes of all connections vanish, and the end of a side is not told to the other before
   * `halfOpenLinger`. `heal` ends them. New connections are not hit. Default: in both directions.
   */
  readonly halfOpen: (options?: { readonly direction?: Direction | undefined }) => Effect.Effect<void>
  /**
   * What comes from now on is late by this much, in order, until `heal` or another `delay`. `Infinity`: nothing passes
   * until `heal`. At most 256 KiB of a direction are under way, then its sender waits. Default: in both directions.
   */
  readonly delay: (
    duration: Duration.Input,
    options?: { readonly direction?: Direction | undefined }
  ) => Effect.Effect<void>
  /**
   * Injects the next fault of the plan now, with its kind replaced if one is given. Waits until there is a
   * connection to hit. A cut or half-open then strikes at the next chunk, or after 50 ms without one.
   */
  readonly faultNow: (kind?: FaultKind) => Effect.Effect<Fault>
  /**
   * Ends all faults; no more come at random. What is late passes now, and half-open connections end, as nothing can
   * bring back what has vanished.
   */
  readonly heal: Effect.Effect<void>
  /** What happened so far. */
  readonly counts: Effect.Effect<Counts>
  /** Waits until the counts are as wanted. */
  readonly awaitCounts: (predicate: (counts: Counts) => boolean) => Effect.Effect<Counts>
}

const idleMillis = 50
/** After a pause of this process, at most this much of the missed schedule is caught up in a burst. */
const catchUpMillis = 1000
const gapsStream = 0xffff_ffff
const graceStream = 0xffff_fffe

/**
 * Makes a proxy and starts its faults. They, and all connections, end with the scope. Fails with a `TransportError` if it
 * can't listen; a wrong option is a defect that names it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: (options: Options) => Effect.Effect<FaultProxy, TransportError, Scope.Scope> = Effect.fnUntraced(
  function*(options: Options): Effect.fn.Return<FaultProxy, TransportError, Scope.Scope> {
    Check.check(options, shape)
    const { host = "127.0.0.1", mix = defaultMix, port = 0, seed = 0 } = options
    const { target } = options
    const graceMillis = delayMillis(options.connectionGrace ?? 150)
    const linger = options.halfOpenLinger ?? "5 seconds"
    const around = yield* surroundings
    const targets = new Targets()
    let opened = 0
    const traffic = new Traffic(typeof target === "function" ? target : () => target, {
      opened: (link) => {
        // Faults that wait for a connection must not strike it the moment it is there: with few clients none
        // would ever get through its handshake. Some do strike that early.
        const grace = Prng.make(seed, graceStream, ++opened).between(0, graceMillis)
        if (grace === 0) targets.add(link)
        else around.fork(Effect.andThen(Effect.sleep(grace), Effect.sync(() => targets.add(link))))
      },
      closed: (link) => targets.delete(link),
      givenUp: (link) => void around.fork(Effect.andThen(Effect.sleep(linger), Effect.sync(() => link.destroy())))
    }, around)
    const address = yield* listen(host, port, traffic)
    const random = yield* makeRandom(traffic, targets, (n, kind) => planFault(seed, n, mix, kind))
    const schedule = yield* FiberSet.make<void, never>()
    const { faultsPerMinute = 0 } = options
    if (faultsPerMinute > 0) yield* FiberSet.run(schedule, scheduled(seed, faultsPerMinute, random.faultNow()))

    /** Ends the refusals that a test asked for. */
    const refusals: Array<() => void> = []
    return {
      ...address,
      url: `ws://${host.includes(":") ? `[${host}]` : host}:${address.port}`,
      cut: Effect.suspend(() => traffic.cut()),
      refuse: Effect.sync(() => void refusals.push(traffic.refuse())),
      halfOpen: ({ direction } = {}) => Effect.sync(() => traffic.halfOpen(direction)),
      delay: (duration, { direction } = {}) => Effect.sync(() => traffic.delay(delayMillis(duration), direction)),
      faultNow: random.faultNow,
      heal: FiberSet.clear(schedule).pipe(
        Effect.andThen(random.end),
        Effect.andThen(Effect.suspend(() => {
          for (const end of refusals.splice(0)) end()
          return traffic.heal()
        }))
      ),
      counts: traffic.tally.counts,
      awaitCounts: (predicate) => traffic.tally.awaitCounts(predicate)
    }
  }
)

/** What faults at random do. */
const makeRandom = Effect.fnUntraced(function*(
  traffic: Traffic,
  targets: Targets,
  plan: (n: number, kind?: FaultKind) => Fault
) {
  const windows = yield* FiberSet.make<void, never>()

  /** Holds a condition for a time, or until `end` or the end of the scope. */
  const hold = (millis: number, end: () => void): Effect.Effect<Fiber.Fiber<void>> =>
    FiberSet.run(windows, Effect.ensuring(Effect.sleep(millis), Effect.sync(end)))

  const stall = (link: Link, millis: number): Effect.Effect<unknown> =>
    Effect.suspend(() => {
      traffic.stall(link)
      return hold(millis, () => link.endStall())
    })

  const strike = (link: Link, fault: Strike): Effect.Effect<unknown> =>
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
      )
    })

  const apply = Effect.fnUntraced(function*(fault: Fault) {
    if (fault.kind === "refuse") return yield* Effect.suspend(() => hold(fault.millis, traffic.refuse()))
    const link = yield* targets.pick(fault.victim)
    return yield* fault.kind === "stall" ? stall(link, fault.millis) : strike(link, fault)
  })

  let n = 0
  return {
    faultNow: (kind?: FaultKind): Effect.Effect<Fault> =>
      Effect.suspend(() => {
        const fault = plan(n++, kind)
        return Effect.as(apply(fault), fault)
      }),
    end: FiberSet.clear(windows)
  }
})

/** Faults at random times. */
const scheduled = Effect.fnUntraced(function*(seed: number, perMinute: number, fault: Effect.Effect<unknown>) {
  const now = yield* steady
  const gaps = Prng.make(seed, gapsStream)
  const mean = 60_000 / perMinute
  let due = now()
  while (true) {
    due = Math.max(due + gaps.exponential() * mean, now() - catchUpMillis)
    yield* Effect.sleep(Math.max(0, due - now()))
    yield* fault
  }
})
