/**
 * The promise, under everything that the simulated network, stores and processes can do to it: see
 * `support/simulation.ts`, and `support/simulationScenarios.ts` for the mixes of faults.
 *
 * A failing run prints `seed=… scenario=…`. To replay it exactly, with its trace:
 *
 *     SIM_SEED=17 SIM_SCENARIO=cuts npx vitest run test/simulation.test.ts
 *
 * `SIM_SEEDS=1000` runs that many seeds of each scenario, `SIM_FIRST=5000` begins there.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { vi } from "vitest"
import { Inbox } from "../src/core/Inbox.ts"
import { Outbox, type Slot } from "../src/core/Outbox.ts"
import { Session } from "../src/core/Session.ts"
import { Closing } from "../src/internal/run/closing.ts"
import type { StoreDriver } from "../src/internal/store/driver.ts"
import { forgetsItsLosses } from "./support/brokenWorlds.ts"
import { amount } from "./support/everything.ts"
import { type Outcome, type Planted, type Scenario, simulate } from "./support/simulation.ts"
import { scenarios } from "./support/simulationScenarios.ts"

const { env } = process
const replayed = env["SIM_SEED"] === undefined ? undefined : Number(env["SIM_SEED"])
const seeds = Number(env["SIM_SEEDS"] ?? amount(60, 10))
const first = Number(env["SIM_FIRST"] ?? 0)
const chosen = Object.values(scenarios).filter(({ name }) => (env["SIM_SCENARIO"] ?? name) === name)
vi.setConfig({ testTimeout: 600_000 + seeds * 10_000 })

const failure = ({ name }: Scenario, seed: number, { trace, violations }: Outcome): string => {
  const shown = replayed === undefined ? trace.filter((line) => line.includes("VIOLATION")).slice(0, 5) : trace
  return `seed=${seed} scenario=${name}: ${violations.length} violations, the first: ${violations[0]}\n${
    shown.join("\n")
  }`
}

/** The first seed that breaks the promise. */
const firstBroken = async (scenario: Scenario, count: number, planted?: Planted): Promise<number | undefined> => {
  for (let seed = 0; seed < count; seed++) {
    const { violations } = await simulate(scenario, seed, planted)
    if (violations.length > 0) return seed
  }
  return undefined
}

if (replayed !== undefined) {
  describe("replay", () => {
    for (const scenario of chosen) {
      it(`seed ${replayed} of ${scenario.name}`, async () => {
        const outcome = await simulate(scenario, replayed)
        if (outcome.violations.length > 0) assert.fail(failure(scenario, replayed, outcome))
      })
    }
  })
} else {
  describe("simulation", () => {
    it("is decided by the seed alone", async () => {
      const hashes = new Set<string>()
      for (let seed = 0; seed < 10; seed++) {
        const { hash } = await simulate(scenarios.hostile, seed)
        assert.strictEqual((await simulate(scenarios.hostile, seed)).hash, hash, `seed ${seed}`)
        hashes.add(hash)
      }
      assert.strictEqual(hashes.size, 10)
    })

    for (const scenario of chosen) {
      it(`keeps the promise: ${scenario.name}`, async () => {
        const failures: Array<string> = []
        for (let seed = first; seed < first + seeds; seed++) {
          const outcome = await simulate(scenario, seed)
          if (outcome.violations.length > 0) failures.push(failure(scenario, seed, outcome))
        }
        if (failures.length > 0) assert.fail(`${failures.length} of ${seeds} seeds\n${failures.join("\n")}`)
      })
    }
  })

  describe("simulation of a planted bug", () => {
    /** Replaces a method for the time of a run. */
    const planted = async <A extends object, K extends string, F>(
      prototype: A,
      name: K,
      make: (original: F) => F,
      run: () => Promise<number | undefined>
    ): Promise<void> => {
      const descriptor = Object.getOwnPropertyDescriptor(prototype, name)
      if (descriptor === undefined) return assert.fail(`there is no ${name} to replace`)
      Object.defineProperty(prototype, name, { ...descriptor, value: make(descriptor.value) })
      try {
        assert.isDefined(await run(), "no seed found it")
      } finally {
        Object.defineProperty(prototype, name, descriptor)
      }
    }

    it("finds an inbox that does not check positions, when a sender repeats itself", () =>
      planted(
        Session.prototype,
        "compose",
        (compose: Session["compose"]): Session["compose"] =>
          function(this: Session, slots, flow) {
            return compose.call(this, slots, flow).flatMap((frame) => [frame, frame])
          },
        async () => {
          assert.isUndefined(await firstBroken(scenarios.calm, 20), "repeats do no harm")
          let found: number | undefined
          await planted(
            Inbox.prototype,
            "accept",
            (accept: Inbox["accept"]): Inbox["accept"] =>
              function(this: Inbox, ...frame) {
                const skip = accept.apply(this, frame)
                return typeof skip === "number" ? 0 : skip
              },
            async () => found = await firstBroken(scenarios.calm, 20)
          )
          return found
        }
      ))

    it("finds an ack that leaves before the handler ran", () =>
      planted(
        Session.prototype,
        "receive",
        (receive: Session["receive"]): Session["receive"] =>
          function(this: Session, text, bytes) {
            const actions = receive.call(this, text, bytes)
            if (!Array.isArray(actions)) return actions
            for (const action of actions) {
              if (action.t !== "deliver") continue
              const { epoch, first, messages } = action
              this.handled(epoch, first + messages.length - 1, messages.length)
            }
            return actions
          },
        () => firstBroken(scenarios.crashes, 20)
      ))

    it("finds a sender that trusts its writes", () =>
      planted(
        Outbox.prototype,
        "read",
        (read: Outbox["read"]): Outbox["read"] =>
          function(this: Outbox, after, limit, now) {
            const result = read.call(this, after, limit, now)
            const last: Slot | undefined = result.slots.at(-1)
            if (last?.kind === "message") this.ack(last.offset)
            return result
          },
        () => firstBroken(scenarios.cuts, 20)
      ))

    it("finds a receiver that forgets its inbox with the connection", () =>
      planted(
        Session.prototype,
        "close",
        (close: Session["close"]): Session["close"] =>
          function(this: Session) {
            close.call(this)
            this.inbox.epoch = null
          },
        () => firstBroken(scenarios.cuts, 20)
      ))

    it(
      "finds a store whose acks are cut at its last message, and that notices nothing of what it has lost",
      async () => {
        const found = await firstBroken({ ...scenarios.databaseLosses, plant: forgetsItsLosses }, 20)
        assert.isDefined(found, "no seed found it")
      }
    )

    it("finds a server that takes absence for an end", async () => {
      const plant = (driver: StoreDriver): StoreDriver => ({ ...driver, wasEnded: () => Effect.succeed(true) })
      assert.isDefined(await firstBroken({ ...scenarios.databaseForgets, plant }, 20), "no seed found it")
    })

    it("finds servers that go on after a long stand as if nobody else could have their sessions", async () => {
      const found = await firstBroken({ ...scenarios.databasePauses, asksNobody: true }, 60)
      assert.isDefined(found, "no seed found it")
    })

    it("finds a shutdown whose failures count against the messages, when it takes no answers", () =>
      planted(
        Closing.prototype,
        "begin",
        (): Closing["begin"] =>
          function(this: Closing) {
            this.flushed()
          },
        async () => {
          const first = await firstBroken(scenarios.databaseDeploys, 20)
          assert.isUndefined(first, "what can't be answered comes again")
          let found: number | undefined
          await planted(
            Closing.prototype,
            "hasBegun",
            () => () => false,
            async () => found = await firstBroken(scenarios.databaseDeploys, 20)
          )
          return found
        }
      ))

    it("finds circuits that go by a clock that is set", async () => {
      assert.isDefined(await firstBroken(scenarios.hostile, 60, { circuitsByWall: true }), "no seed found it")
    })

    it(
      "finds a sender that does not rewind to what was received",
      () => planted(Outbox.prototype, "rewind", () => () => {}, () => firstBroken(scenarios.cuts, 20))
    )
  })
}
