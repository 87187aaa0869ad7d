/**
 * What `CircuitBreaker` is made of, pure and synchronous: {@link Circuit}, the state machine of one circuit with the
 * policy that drives it; and {@link Circuits}, the circuits of a breaker by key. Time and randomness come from outside;
 * there is no timer and no fiber here. (Longer than most files because the two share their bookkeeping.)
 *
 * The states a circuit moves through by itself are Closed, Open and HalfOpen. An override (Isolated, Disabled) lies
 * over them: they keep moving underneath, and show again when it is lifted.
 */
/* oxlint-disable no-underscore-dangle -- `_tag` tells the members of a union apart */
import { DeadlineHeap } from "./deadlineHeap.ts"
import { KeyGenerations } from "./keyGenerations.ts"
import { RollingWindow } from "./rollingWindow.ts"

/**
 * What a circuit is doing. Times are Unix milliseconds.
 *
 * - `Closed`: calls are admitted. `consecutiveFailures` have failed since the last success.
 * - `Open`: calls are rejected until `untilMillis`. `consecutiveOpenings` counts openings since it was last closed.
 * - `HalfOpen`: up to `permits` probes at once are admitted; `inFlight` are out.
 * - `Isolated`: rejects everything until released. `Disabled`: admits everything until released.
 *
 * @since 0.1.0
 * @category models
 */
export type State =
  | { readonly _tag: "Closed"; readonly consecutiveFailures: number }
  | {
    readonly _tag: "Open"
    readonly untilMillis: number
    readonly consecutiveOpenings: number
    readonly reason?: string | undefined
  }
  | { readonly _tag: "HalfOpen"; readonly inFlight: number; readonly permits: number }
  | { readonly _tag: "Isolated"; readonly reason: string }
  | { readonly _tag: "Disabled"; readonly reason: string }

/**
 * How a call went, as far as its dependency's health is concerned.
 *
 * - `Success`: it works. `latencyMillis` is compared with the slow-call threshold.
 * - `Failure`: it does not. `retryAfterMillis` can only lengthen the opening this failure causes (up to an hour);
 *   `trip` opens a closed circuit at once, whatever the policy counts.
 * - `Ignored`: the call says nothing about the dependency (interrupted, refused locally). It frees its probe's place.
 *
 * @since 0.1.0
 * @category models
 */
export type Outcome =
  | { readonly _tag: "Success"; readonly latencyMillis?: number | undefined }
  | { readonly _tag: "Failure"; readonly retryAfterMillis?: number | undefined; readonly trip?: boolean | undefined }
  | { readonly _tag: "Ignored" }

/**
 * The right to make one call, to be given back with its outcome. `generation` fences it: once the circuit has moved
 * on, the outcome counts for nothing (at least until five minutes after the circuit closed and was forgotten).
 * `probe` is true when it takes one of a half-open circuit's places.
 *
 * @since 0.1.0
 * @category models
 */
export interface Permit {
  readonly key: string
  readonly generation: number
  readonly probe: boolean
}

/**
 * A change of the tag of a circuit's state. `reason` says why in words, for logs.
 *
 * @since 0.1.0
 * @category models
 */
export interface Transition {
  readonly key: string
  readonly from: State["_tag"]
  readonly to: State["_tag"]
  readonly atMillis: number
  readonly reason?: string | undefined
}

/**
 * How many circuits are remembered, and how many of them are in each state now. The rest are totals: what circuits
 * did by themselves, also under an override, and the calls rejected (a wait in `awaitAdmission` is none).
 *
 * @since 0.1.0
 * @category models
 */
export interface Stats {
  readonly circuits: number
  readonly open: number
  readonly halfOpen: number
  readonly isolated: number
  readonly disabled: number
  readonly transitions: { readonly opened: number; readonly halfOpened: number; readonly closed: number }
  readonly rejected: number
}

/** When a circuit trips and how it recovers: `CircuitBreaker`'s options, resolved. */
export interface Policy {
  readonly consecutiveFailures: number
  readonly openBaseMillis: number
  readonly openCapMillis: number
  readonly halfOpenPermits: number
  readonly successesToClose: number
  readonly probeTimeoutMillis: number
  /** What is judged by share of the calls in a window of time, where anything is. */
  readonly rate?: RatePolicy | undefined
}

export interface RatePolicy {
  readonly windowMillis: number
  readonly minimumCalls: number
  readonly failureRatio: number
  /** From which latency on a success is slow; `Infinity` for never. */
  readonly slowMillis: number
  readonly slowRatio: number
}

/** What the circuits of one breaker share. */
export interface Env {
  /** The number given out last. Numbers order admissions and transitions of all circuits. */
  sequence: number
  /** Uniform in [0, 1). */
  readonly random: () => number
  /** How often a circuit came into each state by itself. */
  readonly entered: Record<Phase, number>
}

type Phase = "Closed" | "Open" | "HalfOpen"

export type Override = Extract<State, { readonly _tag: "Isolated" | "Disabled" }>

/** Shared by every closed circuit without a failure, and by every key without a circuit. */
export const CLOSED: State = { _tag: "Closed", consecutiveFailures: 0 }

interface Probe {
  readonly generation: number
  readonly deadline: number
}

const NO_PROBES: ReadonlyArray<Probe> = []
const WINDOW_BUCKETS = 10
/** An absurd retry-after hint must not open a circuit for days (Effect's breaker has the same default). */
const MAX_RETRY_AFTER_MILLIS = 3_600_000

/**
 * How long the n-th consecutive opening lasts: full jitter, uniform in (0, min(cap, base * 2^(n-1))] (AWS,
 * "Exponential backoff and jitter"), but no less than a tenth of the first delay, so that it is an opening at all.
 */
export const openMillis = (policy: Policy, openings: number, random: number): number => {
  const first = Math.min(policy.openCapMillis, policy.openBaseMillis)
  const delay = Math.min(policy.openCapMillis, policy.openBaseMillis * 2 ** (openings - 1))
  return Math.max(first / 10, delay * (1 - random))
}

export class Circuit {
  readonly key: string
  readonly policy: Policy
  /** The number of the last transition: permits with a lower one are stale. 0 until there is a transition. */
  generation: number
  override: Override | undefined = undefined
  /** Why the last transition happened. */
  reason: string | undefined = undefined
  // What `Circuits` keeps of it: the state last announced, to whom, and when the heap of deadlines will look at it.
  announced: State = CLOSED
  watchers: Set<Watcher> | undefined = undefined
  scheduledAt = Infinity
  private readonly env: Env
  private phase: Phase = "Closed"
  private failures = 0
  private window: RollingWindow | undefined = undefined
  private openings = 0
  private openUntil = 0
  private openReason = ""
  private successes = 0
  // Probes in flight, oldest first. They all get the same time, so the first one's deadline is the earliest.
  private probes = NO_PROBES
  // `state` is read more often than it changes.
  private cached: State | undefined = CLOSED

  constructor(key: string, policy: Policy, env: Env, generation: number) {
    this.key = key
    this.policy = policy
    this.env = env
    this.generation = generation
  }

  /** The state as of the last event: not after the deadline, until `elapse`. */
  get state(): State {
    return this.cached ??= this.override ?? this.automatic()
  }

  /** When something happens by itself, which `elapse` does. */
  get deadline(): number {
    if (this.phase === "Open") return this.openUntil
    if (this.phase === "HalfOpen") return this.probes[0]?.deadline ?? Infinity
    return this.window?.expiresAt ?? Infinity
  }

  /** There is nothing to remember: a new circuit would behave the same, but for the generation. */
  get isBlank(): boolean {
    return this.phase === "Closed" && this.failures === 0 && this.window === undefined &&
      this.override === undefined && this.watchers === undefined
  }

  /** It may be forgotten to make room: it rejects nothing, and nobody is probing or watching. */
  get isExpendable(): boolean {
    return this.phase !== "Open" && this.probes.length === 0 && this.override === undefined &&
      this.watchers === undefined
  }

  /**
   * What happens by itself at the deadline, as of that time: an open circuit becomes half-open, an overdue probe counts
   * as failed. A late caller repeats it until no deadline is over, and comes out where a punctual one is.
   */
  elapse(): void {
    if (this.phase === "Open") return this.moveTo("HalfOpen", "open time elapsed")
    if (this.phase === "HalfOpen") return this.open("probe overdue", this.deadline, 0)
    this.window = undefined
  }

  admit(now: number): Permit | undefined {
    if (this.override?._tag === "Isolated") return undefined
    if (this.override?._tag === "Disabled" || this.phase === "Closed") return this.permit(false)
    if (this.phase === "Open" || this.probes.length >= this.policy.halfOpenPermits) return undefined
    this.env.sequence++
    const permit = this.permit(true)
    this.probes = [
      ...this.probes,
      { generation: permit.generation, deadline: now + this.policy.probeTimeoutMillis }
    ]
    this.cached = undefined
    return permit
  }

  /** Without a permit the outcome counts as one of the current generation. */
  record(outcome: Outcome, now: number, permit?: Permit): void {
    if (permit !== undefined && permit.generation < this.generation) return
    if (permit?.probe === true && !this.giveBack(permit)) return
    if (outcome._tag === "Ignored") return
    if (this.phase === "Closed") return this.recordClosed(outcome, now)
    if (this.phase === "HalfOpen") return this.recordHalfOpen(outcome, now)
    if (outcome._tag === "Failure") this.lengthen(now + retryAfter(outcome))
  }

  /** Open -> HalfOpen at once. */
  probe(): void {
    if (this.phase === "Open") this.moveTo("HalfOpen", "probe requested")
  }

  /** Forgets what was recorded, and fences what is still out. An override stays. */
  reset(reason: string): void {
    this.moveTo("Closed", reason)
  }

  setOverride(override: Override | undefined): void {
    if (override === this.override) return
    this.override = override
    this.reason = override?.reason ?? "released"
    this.cached = undefined
  }

  private automatic(): State {
    switch (this.phase) {
      case "Closed":
        return this.failures === 0 ? CLOSED : { _tag: "Closed", consecutiveFailures: this.failures }
      case "Open":
        return {
          _tag: "Open",
          untilMillis: this.openUntil,
          consecutiveOpenings: this.openings,
          reason: this.openReason
        }
      case "HalfOpen":
        return { _tag: "HalfOpen", inFlight: this.probes.length, permits: this.policy.halfOpenPermits }
    }
  }

  private permit(probe: boolean): Permit {
    return { key: this.key, generation: this.env.sequence, probe }
  }

  private giveBack(permit: Permit): boolean {
    const left = this.probes.filter((probe) => probe.generation !== permit.generation)
    if (left.length === this.probes.length) return false
    this.probes = left
    this.cached = undefined
    return true
  }

  private recordClosed(outcome: Exclude<Outcome, { readonly _tag: "Ignored" }>, now: number): void {
    const failed = outcome._tag === "Failure"
    const { rate } = this.policy
    if (rate !== undefined) {
      this.window ??= new RollingWindow(rate.windowMillis, WINDOW_BUCKETS, now)
      this.window.record(now, { failed, slow: this.isSlow(outcome) })
    }
    if (failed || this.failures > 0) {
      this.failures = failed ? this.failures + 1 : 0
      this.cached = undefined
    }
    const reason = failed && outcome.trip === true ? "tripped" : this.tripReason()
    if (reason !== undefined) this.open(reason, now, failed ? retryAfter(outcome) : 0)
  }

  private tripReason(): string | undefined {
    if (this.failures >= this.policy.consecutiveFailures) return `${this.failures} failures in a row`
    const { rate } = this.policy
    if (rate === undefined || this.window === undefined || this.window.calls < rate.minimumCalls) return undefined
    const { calls, failures, slow } = this.window
    if (failures > 0 && failures >= calls * rate.failureRatio) return `${failures} of ${calls} calls failed`
    if (slow > 0 && slow >= calls * rate.slowRatio) return `${slow} of ${calls} calls were slow`
    return undefined
  }

  private recordHalfOpen(outcome: Exclude<Outcome, { readonly _tag: "Ignored" }>, now: number): void {
    if (outcome._tag === "Failure") return this.open("probe failed", now, retryAfter(outcome))
    if (this.isSlow(outcome)) return this.open("probe was slow", now, 0)
    this.successes++
    if (this.successes >= this.policy.successesToClose) this.moveTo("Closed", "probe succeeded")
  }

  private isSlow(outcome: Outcome): boolean {
    return outcome._tag === "Success" && (outcome.latencyMillis ?? 0) >= (this.policy.rate?.slowMillis ?? Infinity)
  }

  private open(reason: string, now: number, atLeastMillis: number): void {
    this.openings++
    this.openReason = reason
    this.openUntil = Math.ceil(
      now + Math.max(atLeastMillis, openMillis(this.policy, this.openings, this.env.random()))
    )
    this.moveTo("Open", reason)
  }

  private lengthen(until: number): void {
    if (until <= this.openUntil) return
    this.openUntil = until
    this.cached = undefined
  }

  private moveTo(phase: Phase, reason: string): void {
    if (phase !== this.phase) this.env.entered[phase]++
    this.phase = phase
    this.reason = reason
    this.generation = ++this.env.sequence
    this.failures = 0
    this.window = undefined
    this.successes = 0
    this.probes = NO_PROBES
    if (phase === "Closed") this.openings = 0
    this.cached = undefined
  }
}

const retryAfter = (outcome: Extract<Outcome, { readonly _tag: "Failure" }>): number =>
  Math.min(outcome.retryAfterMillis ?? 0, MAX_RETRY_AFTER_MILLIS) || 0

type Watcher = (state: State) => void

/** How long a forgotten circuit's generation is kept, so that outcomes of calls from before still don't count. */
const FENCE_MILLIS = 300_000

/** What the circuits of a breaker need from outside. */
export interface Host {
  readonly maxCircuits: number
  readonly now: () => number
  /** Uniform in [0, 1). */
  readonly random: () => number
  readonly policyOf: (key: string) => Policy
  readonly onTransition: (transition: Transition) => void
  /** `nextDeadline` may have come nearer. */
  readonly onDeadline: () => void
}

export class Circuits implements Env {
  sequence = 0
  readonly entered = { Closed: 0, Open: 0, HalfOpen: 0 }
  readonly random: () => number
  private readonly host: Host
  private readonly circuits = new Map<string, Circuit>()
  // Holds each circuit with a deadline at that time or earlier, and outdated entries until their time has come.
  private deadlines = new DeadlineHeap<Circuit>()
  // Those that may be forgotten to make room, oldest first.
  private readonly expendable = new Set<Circuit>()
  private readonly fences: KeyGenerations<number>

  constructor(host: Host) {
    this.host = host
    this.random = host.random
    this.fences = new KeyGenerations(FENCE_MILLIS, host.maxCircuits, host.now())
  }

  /** When `elapse` must be called next; `Infinity` while nothing changes by itself. */
  get nextDeadline(): number {
    return Math.min(this.deadlines.earliest, this.fences.rotatesAt)
  }

  /** The circuit of a key, brought up to date, if there is anything to remember of it. */
  find(key: string): Circuit | undefined {
    const circuit = this.circuits.get(key)
    // Most circuits that exist are waiting for no deadline, and spare the clock.
    if (circuit === undefined || circuit.deadline === Infinity) return circuit
    this.catchUp(circuit, this.host.now())
    return this.circuits.get(key) // not there any more if that left it blank
  }

  /** A permit, or the circuit that rejects. */
  admit(key: string): Permit | Circuit {
    const circuit = this.find(key)
    if (circuit === undefined) return { key, generation: this.sequence, probe: false }
    const now = this.host.now()
    const permit = circuit.admit(now)
    if (permit?.probe === true) this.settle(circuit, now)
    return permit ?? circuit
  }

  record(key: string, outcome: Outcome, permit?: Permit): void {
    const found = this.find(key)
    // A success changes nothing where only failures in a row count and there were none.
    if (found === undefined && outcome._tag !== "Failure") {
      if (outcome._tag === "Ignored" || this.host.policyOf(key).rate === undefined) return
    }
    const now = this.host.now()
    const circuit = found ?? this.create(key, now)
    circuit.record(outcome, now, permit)
    this.settle(circuit, now)
  }

  /** Changes a circuit that exists; for a key without one there is nothing to change. */
  update(key: string, change: (circuit: Circuit) => void): void {
    const circuit = this.find(key)
    if (circuit === undefined) return
    change(circuit)
    this.settle(circuit, this.host.now())
  }

  setOverride(key: string, override: Override): void {
    const circuit = this.find(key) ?? this.create(key, this.host.now())
    circuit.setOverride(override)
    this.settle(circuit, this.host.now())
  }

  /** Tells every state of a circuit from now on. A watched circuit is not forgotten. Returns how to stop. */
  watch(key: string, watcher: Watcher): () => void {
    const circuit = this.find(key) ?? this.create(key, this.host.now())
    const watchers = circuit.watchers ??= new Set()
    watchers.add(watcher)
    this.settle(circuit, this.host.now())
    return () => {
      watchers.delete(watcher)
      if (watchers.size > 0) return
      circuit.watchers = undefined
      this.settle(circuit, this.host.now())
    }
  }

  /** Does what time alone does, for all circuits. */
  elapse(): void {
    const now = this.host.now()
    this.fences.advance(now)
    for (let next = this.deadlines.popDue(now); next !== undefined; next = this.deadlines.popDue(now)) {
      // A forgotten circuit has no deadline any more: nothing comes of it here.
      next.scheduledAt = Infinity
      this.catchUp(next, now)
      this.schedule(next)
    }
  }

  stats(rejected: number): Stats {
    this.elapse()
    const tags = { Closed: 0, Open: 0, HalfOpen: 0, Isolated: 0, Disabled: 0 }
    for (const circuit of this.circuits.values()) tags[circuit.state._tag]++
    return {
      circuits: this.circuits.size,
      open: tags.Open,
      halfOpen: tags.HalfOpen,
      isolated: tags.Isolated,
      disabled: tags.Disabled,
      transitions: {
        opened: this.entered.Open,
        halfOpened: this.entered.HalfOpen,
        closed: this.entered.Closed
      },
      rejected
    }
  }

  private catchUp(circuit: Circuit, now: number): void {
    for (let at = circuit.deadline; at <= now; at = circuit.deadline) {
      circuit.elapse()
      this.settle(circuit, at)
    }
  }

  private create(key: string, now: number): Circuit {
    if (this.circuits.size >= this.host.maxCircuits) {
      const [oldest] = this.expendable
      if (oldest !== undefined) {
        oldest.reset("forgotten")
        this.settle(oldest, now)
      }
    }
    this.fences.advance(now)
    const circuit = new Circuit(key, this.host.policyOf(key), this, this.fences.get(key) ?? 0)
    this.circuits.set(key, circuit)
    return circuit
  }

  /** After every change of a circuit: announces it, and puts it where it belongs now. */
  private settle(circuit: Circuit, now: number): void {
    if (circuit.isExpendable) this.expendable.add(circuit)
    else this.expendable.delete(circuit)
    if (circuit.isBlank) this.forget(circuit)
    else this.schedule(circuit)
    this.announce(circuit, now)
    this.host.onDeadline()
  }

  private schedule(circuit: Circuit): void {
    if (circuit.deadline >= circuit.scheduledAt) return
    circuit.scheduledAt = circuit.deadline
    this.deadlines.push(circuit.deadline, circuit)
    if (this.deadlines.size <= 2 * this.circuits.size + 64) return
    // Mostly outdated, of circuits that were reset: start again with those that are wanted.
    this.deadlines = new DeadlineHeap()
    for (const live of this.circuits.values()) {
      live.scheduledAt = live.deadline
      if (live.deadline < Infinity) this.deadlines.push(live.deadline, live)
    }
  }

  private forget(circuit: Circuit): void {
    this.circuits.delete(circuit.key)
    this.expendable.delete(circuit)
    if (circuit.generation === 0) return
    const now = this.host.now()
    this.fences.advance(now)
    this.fences.makeRoom(0, now)
    this.fences.set(circuit.key, circuit.generation)
  }

  private announce(circuit: Circuit, now: number): void {
    const { announced, state } = circuit
    if (state === announced) return
    circuit.announced = state
    if (state._tag !== announced._tag) {
      this.host.onTransition({
        key: circuit.key,
        from: announced._tag,
        to: state._tag,
        atMillis: now,
        reason: circuit.reason
      })
    }
    circuit.watchers?.forEach((watcher) => watcher(state))
  }
}
