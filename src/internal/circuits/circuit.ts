/**
 * One circuit: a state machine and the policy that drives it. Pure and synchronous: time and randomness come from
 * outside; there is no timer and no fiber here. `circuits.ts` keeps all circuits of a breaker.
 *
 * The states a circuit moves through by itself are Closed, Open and HalfOpen. An override (Isolated, Disabled) lies
 * over them: they keep moving underneath, and show again when it is lifted.
 */
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
 * The right to make one call, to be given back with its outcome. `generation` fences it: once the circuit has moved on,
 * the outcome does not count (at least until five minutes after the circuit closed and was forgotten). `probe` is true
 * if it takes one of a half-open circuit's places.
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
 * How many circuits are remembered, and how many of them are in each state now. The rest are totals: what circuits did
 * by themselves, even under an override, and calls rejected (a wait in `awaitAdmission` is not one).
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
  /**
   * The policy of session circuits, and the one of all other circuits.
   *
   * @since 0.1.0
   */
  readonly policies: { readonly session: Policy; readonly endpoint: Policy }
}

/**
 * When a circuit trips and how it recovers. The options of `CircuitBreaker` explain each field and its default.
 *
 * @since 0.1.0
 * @category models
 */
export interface Policy {
  readonly consecutiveFailures: number
  readonly openBaseMillis: number
  readonly openCapMillis: number
  readonly halfOpenPermits: number
  readonly successesToClose: number
  readonly probeTimeoutMillis: number
  /** Trips on the ratio of failed or slow calls in a window of time; undefined for never. */
  readonly rate?: RatePolicy | undefined
}

interface RatePolicy {
  readonly windowMillis: number
  readonly minimumCalls: number
  readonly failureRatio: number
  /** The latency from which a success is slow; `Infinity` for never. */
  readonly slowMillis: number
  readonly slowRatio: number
}

/** What the circuits of one breaker share. */
export interface Env {
  /** The number given out last. Numbers order admissions and transitions of all circuits. */
  sequence: number
  /** Uniform in [0, 1). */
  readonly random: () => number
  /** How often a circuit entered each state by itself. */
  readonly entered: Record<Phase, number>
}

type Phase = "Closed" | "Open" | "HalfOpen"

export type Override = Extract<State, { readonly _tag: "Isolated" | "Disabled" }>

export type Watcher = (state: State) => void

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
 * "Exponential backoff and jitter"), but no less than a tenth of the first delay, so that it is never close to zero.
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
  // Written by `Circuits`: the state last announced, to whom, and when the heap of deadlines will look at this circuit.
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
  // Probes in flight, oldest first. All have the same timeout, so the first one's deadline is the earliest.
  private probes = NO_PROBES
  // Cached, since `state` is read more often than it changes.
  private cached: State | undefined = CLOSED

  constructor(key: string, policy: Policy, env: Env, generation: number) {
    this.key = key
    this.policy = policy
    this.env = env
    this.generation = generation
  }

  /** The state as of the last event. Once the deadline has passed, it is outdated until `elapse`. */
  get state(): State {
    return this.cached ??= this.override ?? this.automatic()
  }

  /** When `elapse` has something to do; `Infinity` for never. */
  get deadline(): number {
    if (this.phase === "Open") return this.openUntil
    if (this.phase === "HalfOpen") return this.probes[0]?.deadline ?? Infinity
    return this.window?.expiresAt ?? Infinity
  }

  /** Whether there is nothing to remember: a new circuit would behave the same, except for the generation. */
  get isBlank(): boolean {
    return this.phase === "Closed" && this.failures === 0 && this.window === undefined &&
      this.override === undefined && this.watchers === undefined
  }

  /** Whether it may be forgotten to make room: it rejects nothing, and nobody is probing or watching. */
  get isExpendable(): boolean {
    return this.phase !== "Open" && this.probes.length === 0 && this.override === undefined &&
      this.watchers === undefined
  }

  /**
   * Does what time alone does at the deadline, as of that time: an open circuit becomes half-open, an overdue probe
   * counts as failed. A late caller repeats it until no deadline has passed, and ends up where a punctual one would.
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

  /** Without a permit, the outcome counts for the current generation. */
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

  /** Forgets what was recorded, and fences calls still under way. An override stays. */
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
