/**
 * A server is killed at each step of its store in turn, before it and after it, and started again on the same
 * database: the exchange goes on as if nothing had been. Every message is handled, and once; with a handler that
 * commits its message itself, its effects too.
 */
import { assert, describe, it } from "@effect/vitest"
import type { CrashPoint } from "../support/crashPoints.ts"
import { type CrashOutcome, exchange, type Handler } from "../support/crashWorld.ts"
import { amount } from "../support/everything.ts"

/** To replay one: `CRASH_AT="after 17" npx vitest run test/store/crashPoints.test.ts`, which prints its trace. */
const replayed = process.env["CRASH_AT"]

const starting = (prefix: string, keys: ReadonlyArray<string>) => keys.filter((key) => key.startsWith(prefix))

const handledKeys = ["a1", "a2", "a4", "a5", "a6"]
const answers = handledKeys.map((key) => `re: ${key}`)

/** What is wrong with the outcome. */
const faultsOf = (handler: Handler, outcome: CrashOutcome): ReadonlyArray<string> => {
  const faults = [...outcome.violations]
  const expect = (what: string, actual: unknown, ...allowed: ReadonlyArray<unknown>): void => {
    const text = JSON.stringify(actual)
    if (!allowed.some((value) => JSON.stringify(value) === text)) faults.push(`${what}: ${text}`)
  }
  const { letters, located, received, receipts, rows } = outcome
  // On its own, the handler may have written and not stored its position: which ones may come again, the history says.
  expect("the table", handler === "plain" ? [...new Set(rows)] : rows, handledKeys)
  expect("the answers", starting("re: ", received), answers)
  // Only what has no key can't be sent again by the next process.
  expect("messages to the client", starting("b", received), ["b1", "b2", "b5"], ["b2", "b5"])
  expect("the receipts", receipts, {
    a1: "handled",
    a2: "handled",
    "a3 poison": "failed",
    a4: "handled",
    a5: "handled",
    a6: "handled"
  })
  expect("what is said of b2 and b5", [located["b2"], located["b5"]], ["handled", "handled"])
  expect("what is said of b1", located["b1"], "handled", undefined)
  // A process that was killed may have taken a dead letter with it; the history counts how many.
  expect("the dead letter of b3", letters["b3 poison"], "failed", undefined)
  expect("the dead letter of b4", letters["b4 late"], "expired", undefined)
  expect("the dead letter of b6", letters["b6 too late"], "sessionEnded", undefined)
  return faults
}

const play = async (handler: Handler, point: CrashPoint | undefined) => {
  const outcome = await exchange(handler, point)
  const faults = [...faultsOf(handler, outcome)]
  if (point !== undefined && !outcome.killed) faults.push("it was not killed")
  return { outcome, faults }
}

describe("a server that is killed at each step of its store in turn", () => {
  for (const handler of ["plain", "transactional"] as const) {
    it(`has nothing to make good when it isn't killed: ${handler} handler`, async () => {
      const { faults, outcome } = await play(handler, undefined)
      assert.deepStrictEqual(faults, [])
      assert.deepStrictEqual(outcome.rows, handledKeys)
      assert.deepStrictEqual(outcome.letters, {
        "b3 poison": "failed",
        "b4 late": "expired",
        "b6 too late": "sessionEnded"
      })
    })

    for (const when of ["before", "after"] as const) {
      /** A short run takes every other step, and those between them with the other handler. */
      const first = (handler === "plain") === (when === "before") ? 1 : amount(1, 2)
      it(`and goes on as if nothing had been: ${handler} handler, ${when} each step`, async () => {
        const { steps } = await exchange(handler, undefined)
        const found: Array<string> = []
        const stride = replayed === undefined ? amount(1, 2) : 1
        for (let step = replayed === undefined ? first : 1; step <= steps.length; step += stride) {
          if (replayed !== undefined && replayed !== `${when} ${step}`) continue
          const { faults, outcome } = await play(handler, { step, when })
          if (replayed !== undefined) console.log(outcome.trace.join("\n"))
          if (faults.length > 0) found.push(`${when} ${step} (${steps[step - 1]}): ${faults.join("; ")}`)
        }
        assert.deepStrictEqual(found, [])
      })
    }
  }
})
