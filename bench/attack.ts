/**
 * `node bench/attack.ts [seconds] [kind …]`: a hundred honest clients of a server with a heap of 512 MB and the default
 * options, while it is attacked in each way by a hundred connections; their p99 beside the quiet one just before, in ms,
 * and the median ratio of the rounds. The server, its attacker and the honest clients are a process each, so that it takes
 * a machine with three processors to mean much.
 */
import { Console, Effect } from "effect"
import { makeAttacked, makeCrowd } from "../test/support/attacked.ts"
import { type Kind, kinds } from "../test/support/attacker.ts"
import { spreadOf } from "./harness/statistics.ts"

const [seconds = "3", ...only] = process.argv.slice(2)
const chosen: ReadonlyArray<Kind> = only.length === 0 ? kinds : kinds.filter((kind) => only.includes(kind))
const rounds = 3
const millis = Number(seconds) * 1_000
/** After an attack: what the attackers have left in the handlers' hands. */
const settling = "2 seconds"

const program = Effect.gen(function*() {
  const attacked = yield* makeAttacked(1_000)
  const crowd = yield* makeCrowd(attacked.port, 100, 50)
  yield* Effect.sleep("10 seconds") // all are warm
  const ratios = new Map(chosen.map((kind): [Kind, Array<number>] => [kind, []]))
  for (let round = 1; round <= rounds; round++) {
    for (const [kind, ofKind] of ratios) {
      yield* attacked.figures
      crowd.take()
      yield* Effect.sleep(millis)
      const quiet = crowd.take().p99
      yield* attacked.figures
      const { bytes } = yield* attacked.attack(kind, 100, millis)
      const { count, p99 } = crowd.take()
      yield* crowd.areServed
      const { heapMiB, loopMillis } = yield* attacked.figures
      ofKind.push(p99 / quiet)
      yield* Console.log(
        `${round}: ${kind}: p99 ${quiet.toFixed(1)} → ${p99.toFixed(1)} ms of ${count}, ${
          (p99 / quiet).toFixed(1)
        } ×; ` +
          `longest turn ${loopMillis.toFixed(0)} ms, heap ${heapMiB.toFixed(0)} MiB, ${
            (bytes / 1e6).toFixed(0)
          } MB offered`
      )
      yield* Effect.sleep(settling)
    }
  }
  for (const [kind, ofKind] of ratios) {
    const { max, median, min } = spreadOf(ofKind)
    yield* Console.log(`${kind}: ${median.toFixed(1)} × (${min.toFixed(1)} to ${max.toFixed(1)})`)
  }
})

await Effect.runPromise(Effect.scoped(program))
process.exit(0)
