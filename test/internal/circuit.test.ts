import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Circuit, openMillis } from "../../src/internal/circuits/circuit.ts"
import type { Outcome, Permit, Policy, State, Transition } from "../../src/internal/circuits/circuit.ts"
import { Circuits } from "../../src/internal/circuits/circuits.ts"

const between = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

const policy: Policy = {
  consecutiveFailures: 3,
  openBaseMillis: 1_000,
  openCapMillis: 4_000,
  halfOpenPermits: 2,
  successesToClose: 2,
  probeTimeoutMillis: 3_000
}
const rated: Policy = {
  ...policy,
  rate: { windowMillis: 2_000, minimumCalls: 4, failureRatio: 0.5, slowMillis: 100, slowRatio: 0.75 }
}
const success: Outcome = { _tag: "Success" }
const failure: Outcome = { _tag: "Failure" }
const makeEnv = (random = 0) => ({ sequence: 0, random: () => random, entered: { Closed: 0, Open: 0, HalfOpen: 0 } })

describe("openMillis", () => {
  it.prop(
    "is uniform up to the doubled, capped base, and never less than a tenth of the base",
    { openings: between(1, 2_000), random: between(0, 999_999) },
    ({ openings, random }) => {
      const delay = openings > 2 ? 4_000 : 1_000 * openings
      const millis = openMillis(policy, openings, random / 1_000_000)
      assert.isAtLeast(millis, 100)
      assert.isAtMost(millis, delay)
      assert.strictEqual(millis, Math.max(100, delay * (1 - random / 1_000_000)))
    }
  )
})

describe("Circuit", () => {
  it.prop(
    "moves like three lines of arithmetic do",
    {
      steps: Schema.Array(
        Schema.Struct({
          idle: Schema.Literals([0, 1, 999, 1_000, 1_001, 4_000]),
          outcome: Schema.Literals(["Success", "Failure", "Failure", "Ignored"])
        })
      )
    },
    ({ steps }) => {
      const circuit = new Circuit("k", policy, makeEnv(), 0)
      let model = { tag: "Closed", failures: 0, successes: 0, openings: 0, until: 0 }
      let now = 0
      for (const { idle, outcome } of steps) {
        now += idle
        while (circuit.deadline <= now) circuit.elapse()
        if (model.tag === "Open" && now >= model.until) model = { ...model, tag: "HalfOpen", successes: 0 }
        circuit.record({ _tag: outcome }, now)
        if (outcome === "Success" && model.tag === "Closed") model.failures = 0
        if (outcome === "Success" && model.tag === "HalfOpen" && ++model.successes === 2) {
          model = { tag: "Closed", failures: 0, successes: 0, openings: 0, until: 0 }
        }
        if (outcome === "Failure" && model.tag !== "Open") {
          model.failures++
          if (model.tag === "HalfOpen" || model.failures === 3) {
            const openings = model.openings + 1
            model = { ...model, tag: "Open", openings, until: now + Math.min(4_000, 1_000 * 2 ** (openings - 1)) }
          }
        }
        if (model.tag !== "Closed") model.failures = 0
        const { state } = circuit
        assert.strictEqual(state._tag, model.tag)
        if (state._tag === "Closed") assert.strictEqual(state.consecutiveFailures, model.failures)
        if (state._tag === "Open") {
          assert.deepStrictEqual([state.untilMillis, state.consecutiveOpenings], [model.until, model.openings])
        }
      }
    },
    { arbitrary: { runs: 500, size: 60 } }
  )

  const recordAll = (circuit: Circuit, outcomes: ReadonlyArray<Outcome>, now: number) =>
    outcomes.forEach((outcome) => circuit.record(outcome, now))

  it("opens at the failure ratio, but not before the minimum of calls", () => {
    const circuit = new Circuit("k", rated, makeEnv(), 0)
    recordAll(circuit, [failure, success, failure], 0)
    assert.strictEqual(circuit.state._tag, "Closed")
    recordAll(circuit, [success], 0)
    assert.strictEqual(circuit.state._tag, "Open")
  })

  it("opens when enough of the calls are slow, and a slow probe opens it again", () => {
    const slow: Outcome = { _tag: "Success", latencyMillis: 100 }
    const circuit = new Circuit("k", rated, makeEnv(), 0)
    recordAll(circuit, [{ _tag: "Success", latencyMillis: 99 }, slow, slow], 0)
    assert.strictEqual(circuit.state._tag, "Closed")
    recordAll(circuit, [slow], 0)
    assert.strictEqual(circuit.state._tag, "Open")
    circuit.elapse()
    assert.strictEqual(circuit.state._tag, "HalfOpen")
    recordAll(circuit, [slow], 1_000)
    assert.strictEqual(circuit.state._tag, "Open")
  })

  it("never opens for a ratio of zero without a failure", () => {
    const strict: Policy = {
      ...policy,
      rate: { windowMillis: 2_000, minimumCalls: 1, failureRatio: 0, slowMillis: Infinity, slowRatio: 0 }
    }
    const circuit = new Circuit("k", strict, makeEnv(), 0)
    recordAll(circuit, [success, success], 0)
    assert.strictEqual(circuit.state._tag, "Closed")
    recordAll(circuit, [failure], 0)
    assert.strictEqual(circuit.state._tag, "Open")
  })

  it("lets a retry-after lengthen an opening, by an hour at most, and never shorten it", () => {
    const untilAfter = (retryAfterMillis: number) => {
      const circuit = new Circuit("k", policy, makeEnv(), 0)
      circuit.record({ _tag: "Failure", trip: true, retryAfterMillis }, 0)
      return circuit.deadline
    }
    assert.strictEqual(untilAfter(10), 1_000)
    assert.strictEqual(untilAfter(7_000), 7_000)
    assert.strictEqual(untilAfter(86_400_000), 3_600_000)
    assert.strictEqual(untilAfter(Number.NaN), 1_000)
    assert.strictEqual(untilAfter(-5), 1_000)
  })

  it("lets a later retry-after lengthen the opening it is in", () => {
    const circuit = new Circuit("k", policy, makeEnv(), 0)
    circuit.record({ _tag: "Failure", trip: true }, 0)
    circuit.record({ _tag: "Failure", retryAfterMillis: 5_000 }, 500)
    assert.strictEqual(circuit.deadline, 5_500)
    circuit.record({ _tag: "Failure", retryAfterMillis: 100 }, 600)
    assert.strictEqual(circuit.deadline, 5_500)
  })

  it("counts a probe's outcome once", () => {
    const circuit = new Circuit("k", policy, makeEnv(), 0)
    circuit.record({ _tag: "Failure", trip: true }, 0)
    circuit.elapse()
    const probe = circuit.admit(1_000)
    assert.isTrue(probe?.probe)
    circuit.record(success, 1_000, probe)
    circuit.record(success, 1_000, probe)
    assert.strictEqual(circuit.state._tag, "HalfOpen")
    circuit.record(success, 1_000, circuit.admit(1_000))
    assert.strictEqual(circuit.state._tag, "Closed")
  })
})

describe("Circuits", () => {
  const Step = Schema.Struct({
    idle: Schema.Literals([0, 1, 200, 750, 1_500, 3_000]),
    key: Schema.Literals(["session:a", "session:b", "endpoint:c"]),
    action: Schema.Literals([
      "admit",
      "admit",
      "record",
      "record",
      "report",
      "report",
      "probe",
      "reset",
      "isolate",
      "disable",
      "release"
    ]),
    outcome: Schema.Literals(["Success", "Failure", "Failure", "Ignored", "trip"]),
    which: between(0, 1_000),
    late: Schema.Boolean,
    look: Schema.Boolean
  })
  const policyOf = (key: string) => key.startsWith("session:") ? policy : rated
  const tick = { now: 0 }
  const make = (maxCircuits: number, onTransition: (transition: Transition) => void = () => {}) =>
    new Circuits({
      maxCircuits,
      now: () => tick.now,
      random: () => 0.25,
      policyOf,
      onTransition,
      onDeadline: () => {}
    })

  it.prop(
    "behave like circuits that are never forgotten and know nothing of each other",
    { steps: Schema.Array(Step) },
    ({ steps }) => {
      tick.now = 0
      const shown = new Map<string, State["_tag"]>()
      const circuits = make(100, ({ from, key, to }) => {
        assert.strictEqual(shown.get(key) ?? "Closed", from)
        assert.notStrictEqual(from, to)
        shown.set(key, to)
      })
      const alone = new Map<string, Circuit>()
      const out: Array<{ readonly key: string; readonly ours: Permit; readonly theirs: Permit }> = []
      for (const { action, idle, key, late, look, outcome: tag, which } of steps) {
        const outcome: Outcome = tag === "trip" ? { _tag: "Failure", trip: true } : { _tag: tag }
        tick.now += idle
        for (const circuit of alone.values()) while (circuit.deadline <= tick.now) circuit.elapse()
        if (!late) circuits.elapse()
        const circuit = alone.get(key) ?? new Circuit(key, policyOf(key), makeEnv(0.25), 0)
        alone.set(key, circuit)
        switch (action) {
          case "admit": {
            const ours = circuits.admit(key)
            const theirs = circuit.admit(tick.now)
            assert.strictEqual(ours instanceof Circuit, theirs === undefined)
            if (!(ours instanceof Circuit) && theirs !== undefined) {
              assert.strictEqual(ours.probe, theirs.probe)
              out.push({ key, ours, theirs })
            }
            break
          }
          case "record": {
            const [permit] = out.splice(which % Math.max(1, out.length), 1)
            if (permit === undefined) break
            circuits.record(permit.key, outcome, permit.ours)
            alone.get(permit.key)?.record(outcome, tick.now, permit.theirs)
            break
          }
          case "report":
            circuits.record(key, outcome)
            circuit.record(outcome, tick.now)
            break
          case "probe":
            circuits.update(key, (circuit) => circuit.probe())
            circuit.probe()
            break
          case "reset":
            // One that doesn't exist has no history to forget, and fences nothing.
            if (circuits.find(key) !== undefined) circuit.reset("reset")
            circuits.update(key, (circuit) => circuit.reset("reset"))
            break
          case "release":
            circuits.update(key, (circuit) => circuit.setOverride(undefined))
            circuit.setOverride(undefined)
            break
          default: {
            const override = { _tag: action === "isolate" ? "Isolated" : "Disabled", reason: "test" } as const
            circuits.setOverride(key, override)
            circuit.setOverride(override)
          }
        }
        // Looking brings a circuit up to date, so it must not hide what happens when nobody does.
        for (const [key, circuit] of look ? alone : []) {
          const state = circuits.find(key)?.state ?? { _tag: "Closed", consecutiveFailures: 0 }
          assert.deepStrictEqual(state, circuit.state)
          assert.strictEqual(shown.get(key) ?? "Closed", state._tag)
        }
        if (!look) continue
        const remembered = [...alone.values()].filter((circuit) => !circuit.isBlank).length
        assert.strictEqual(circuits.stats(0).circuits, remembered)
      }
    },
    { arbitrary: { runs: 1_000, size: 80 } }
  )

  it("dates what happened by itself by when it was due, however late that is noticed", () => {
    tick.now = 0
    const seen: Array<string> = []
    const circuits = make(10, ({ atMillis, to }) => seen.push(`${to} at ${atMillis}`))
    circuits.record("session:a", { _tag: "Failure", trip: true, retryAfterMillis: 1_000 })
    tick.now = 1_000
    circuits.admit("session:a")
    tick.now = 10_000
    assert.strictEqual(circuits.find("session:a")?.state._tag, "HalfOpen")
    // The probe was overdue after 3 s, and the second opening takes 2 s by 0.75.
    assert.deepStrictEqual(seen, ["Open at 0", "HalfOpen at 1000", "Open at 4000", "HalfOpen at 5500"])
  })

  it("forgets the oldest closed circuits beyond the bound, and open ones never", () => {
    tick.now = 0
    const circuits = make(3)
    circuits.record("session:open", { _tag: "Failure", trip: true })
    circuits.setOverride("session:isolated", { _tag: "Isolated", reason: "test" })
    for (const key of ["session:1", "session:2", "session:3"]) circuits.record(key, failure)
    assert.deepStrictEqual(
      ["session:1", "session:2", "session:3", "session:open", "session:isolated"].map((key) =>
        circuits.find(key)?.state._tag
      ),
      [undefined, undefined, "Closed", "Open", "Isolated"]
    )
    assert.strictEqual(circuits.stats(0).circuits, 3)
    for (let i = 0; i < 5; i++) circuits.record(`session:open${i}`, { _tag: "Failure", trip: true })
    assert.strictEqual(circuits.stats(0).open, 6)
  })

  it("forgets a half-open circuit nobody probes to make room, and says so", () => {
    tick.now = 0
    const seen: Array<string> = []
    const circuits = make(1, ({ from, key, reason, to }) => seen.push(`${key} ${from} ${to} ${reason}`))
    circuits.record("session:a", { _tag: "Failure", trip: true })
    tick.now = 1_000
    circuits.elapse()
    circuits.record("session:b", failure)
    assert.deepStrictEqual(seen, [
      "session:a Closed Open tripped",
      "session:a Open HalfOpen open time elapsed",
      "session:a HalfOpen Closed forgotten"
    ])
    assert.strictEqual(circuits.stats(0).circuits, 1)
  })

  it("knows a late outcome after the circuit was forgotten and its key used again", () => {
    tick.now = 0
    const circuits = make(10)
    const early = circuits.admit("session:a")
    assert.isNotTrue(early instanceof Circuit)
    circuits.record("session:a", { _tag: "Failure", trip: true })
    circuits.update("session:a", (circuit) => circuit.reset("reset"))
    assert.strictEqual(circuits.stats(0).circuits, 0)
    if (!(early instanceof Circuit)) circuits.record("session:a", { _tag: "Failure", trip: true }, early)
    assert.strictEqual(circuits.stats(0).open, 0)
    const later = circuits.admit("session:a")
    if (!(later instanceof Circuit)) circuits.record("session:a", { _tag: "Failure", trip: true }, later)
    assert.strictEqual(circuits.stats(0).open, 1)
  })

  it("tells a watcher nothing where nothing changed, and counts no transition", () => {
    tick.now = 0
    const circuits = make(10)
    const seen: Array<State> = []
    circuits.record("session:a", failure)
    const stop = circuits.watch("session:a", (state) => seen.push(state))
    circuits.update("session:a", (circuit) => circuit.setOverride(undefined))
    circuits.update("session:a", (circuit) => circuit.probe())
    circuits.record("session:a", { _tag: "Ignored" })
    circuits.admit("session:a")
    assert.deepStrictEqual(seen, [])
    circuits.update("session:a", (circuit) => circuit.reset("reset"))
    assert.deepStrictEqual(seen, [{ _tag: "Closed", consecutiveFailures: 0 }])
    stop()
    assert.deepStrictEqual(circuits.stats(0).transitions, { opened: 0, halfOpened: 0, closed: 0 })
  })

  it("has nothing left to wait for once everything is forgotten, the fences too", () => {
    tick.now = 0
    const circuits = make(10)
    for (let i = 0; i < 1_000; i++) {
      tick.now = i // each opening has a deadline of its own
      circuits.record(`session:${i % 7}`, { _tag: "Failure", trip: true })
      circuits.update(`session:${i % 7}`, (circuit) => circuit.reset("reset"))
    }
    for (let turns = 0; circuits.nextDeadline < Infinity; turns++) {
      assert.isBelow(turns, 100) // and a thousand openings that were reset don't keep it busy
      tick.now = circuits.nextDeadline
      circuits.elapse()
    }
    assert.isAtLeast(tick.now, 300_000)
    assert.isAtMost(tick.now, 601_000)
    assert.strictEqual(circuits.stats(0).circuits, 0)
  })
})
