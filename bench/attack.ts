/**
 * `node bench/attack.ts [seconds] [kind …]`: a hundred honest clients of a server with a heap of 512 MB and the default
 * options, while it is attacked in each way by a hundred connections; their p99 beside the quiet one, in ms. The server,
 * its attacker and the honest clients are a process each, so that it takes a machine with three processors to mean much.
 */
import { Console, Effect } from "effect"
import { makeAttacked, makeCrowd } from "../test/support/attacked.ts"
import { type Kind, kinds } from "../test/support/attacker.ts"

const [seconds = "3", ...only] = process.argv.slice(2)
const chosen: ReadonlyArray<Kind> = only.length === 0 ? kinds : kinds.filter((kind) => only.includes(kind))

const program = Effect.gen(function*() {
  const attacked = yield* makeAttacked(1_000)
  const crowd = yield* makeCrowd(attacked.port, 100, 50)
  yield* Effect.sleep("2 seconds")
  crowd.take()
  yield* Effect.sleep("5 seconds")
  const quiet = crowd.take().p99
  yield* Console.log(`quiet: p99 ${quiet.toFixed(1)} ms; 5 × is ${(5 * quiet).toFixed(1)} ms`)
  for (const kind of chosen) {
    const { bytes } = yield* attacked.attack(kind, 100, Number(seconds) * 1_000)
    const { count, p99 } = crowd.take()
    yield* crowd.areServed
    const { heapMiB, loopMillis } = yield* attacked.figures
    yield* Console.log(
      `${kind}: p99 ${p99.toFixed(1)} ms of ${count}, ${(p99 / quiet).toFixed(1)} ×; loop ${
        loopMillis.toFixed(0)
      } ms, ` +
        `heap ${heapMiB.toFixed(0)} MiB, ${(bytes / 1e6).toFixed(0)} MB offered`
    )
    // What the attackers have left in the handlers' hands.
    yield* Effect.sleep("2 seconds")
    crowd.take()
  }
})

await Effect.runPromise(Effect.scoped(program))
process.exit(0)
