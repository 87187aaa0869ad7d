/**
 * A server with a heap of 512 MB and the default options, attacked in every way by one connection and by a hundred: it
 * does not end, and honest clients go on. How fast they do is printed, and measured by bench/attack.ts.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { constants } from "node:os"
import { makeAttacked, makeCrowd } from "./support/attacked.ts"
import { kinds } from "./support/attacker.ts"
import { amount } from "./support/everything.ts"

const millis = amount(300, 100)

/** How many at once. */
const sizes = [1, 100]

describe("a server that is attacked", () => {
  it.live("lives, and serves who is honest, whatever a connection does, or a hundred", () =>
    Effect.gen(function*() {
      const attacked = yield* makeAttacked(3_000, constants.priority.PRIORITY_NORMAL)
      const crowd = yield* makeCrowd(attacked.port, 10, 20)
      yield* Effect.sleep(500)
      const lines = [`quiet: p99 ${crowd.take().p99.toFixed(1)} ms`]
      for (const kind of kinds) {
        for (const connections of sizes) {
          const { bytes, dials } = yield* attacked.attack(kind, connections, millis)
          assert.isFalse(attacked.hasEnded(), `${connections} × ${kind}`)
          assert.isTrue(yield* crowd.areServed, `${connections} × ${kind}`)
          const { heapMiB, loopMillis } = yield* attacked.figures
          const { p99 } = crowd.take()
          lines.push(
            `${connections} × ${kind}: p99 ${p99.toFixed(1)} ms, loop ${loopMillis.toFixed(0)} ms, heap ${
              heapMiB.toFixed(0)
            } MiB, ` +
              `${(bytes / 1e6).toFixed(0)} MB offered by ${dials} connections`
          )
        }
      }
      console.log(lines.join("\n"))
    }))
})
