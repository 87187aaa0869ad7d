/** A breaker's circuits by key: which exist, which are due, which may be forgotten. Pure and synchronous. */
import { DeadlineHeap } from "../kit/deadlineHeap.ts"
import { KeyGenerations } from "../kit/keyGenerations.ts"
import {
  Circuit,
  type Env,
  type Outcome,
  type Override,
  type Permit,
  type Policy,
  type Stats,
  type Transition,
  type Watcher
} from "./circuit.ts"

/** How long a forgotten circuit's generation is kept, so that outcomes of earlier calls still don't count. */
const FENCE_MILLIS = 300_000

/** What the circuits of a breaker need from outside. */
export interface Host {
  readonly maxCircuits: number
  readonly now: () => number
  /** Uniform in [0, 1). */
  readonly random: () => number
  readonly policyOf: (key: string) => Policy
  readonly onTransition: (transition: Transition) => void
  /** Called when `nextDeadline` may have come nearer. */
  readonly onDeadline: () => void
}

export class Circuits implements Env {
  sequence = 0
  readonly entered = { Closed: 0, Open: 0, HalfOpen: 0 }
  readonly random: () => number
  private readonly host: Host
  private readonly circuits = new Map<string, Circuit>()
  // Holds each circuit that has a deadline once, at that time or earlier.
  private readonly deadlines = new DeadlineHeap<Circuit>((circuit, at) =>
    circuit.scheduledAt === at && this.circuits.get(circuit.key) === circuit
  )
  // Circuits that may be forgotten to make room, oldest first.
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

  /** The circuit of a key, brought up to date; undefined if there is nothing to remember. */
  find(key: string): Circuit | undefined {
    const circuit = this.circuits.get(key)
    // Most circuits have no deadline, so this saves reading the clock.
    if (circuit === undefined || circuit.deadline === Infinity) return circuit
    this.catchUp(circuit, this.host.now())
    return this.circuits.get(key) // gone if catching up left it blank
  }

  /** Returns a permit, or the circuit that rejects the call. */
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
    // A success changes nothing if only consecutive failures count and there were none.
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

  /**
   * Calls `watcher` with every state of a circuit from now on. A watched circuit is not forgotten. Returns how to stop.
   */
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
      next.scheduledAt = Infinity
      this.catchUp(next, now)
      this.schedule(next)
    }
  }

  stats(rejected: number): Omit<Stats, "policies"> {
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

  /** To be called after every change of a circuit: announces its state, and files it where it belongs now. */
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
  }

  private forget(circuit: Circuit): void {
    this.circuits.delete(circuit.key)
    this.expendable.delete(circuit)
    if (circuit.generation === 0) return
    const now = this.host.now()
    this.fences.advance(now)
    this.fences.rotateIfFull(0, now)
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
