/** A server that runs out of descriptors, which its parent has limited: says what it logs, and how many it has refused. */
import { Context, Effect, Layer, Logger } from "effect"
import { openSync } from "node:fs"
import { MemoryStore } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import { Numbers } from "./resetContract.ts"

const log = Logger.make<unknown, void>(({ message }) => console.log(String(message)))

const openAll = (): void => {
  try {
    while (true) openSync("/dev/null", "r")
  } catch {
    // As many as may be are open.
  }
}

await Effect.runPromise(
  Effect.gen(function*() {
    const services = yield* Layer.build(
      Numbers.layerServer({ onMessage: () => Effect.void }).pipe(
        Layer.provide([MemoryStore.layer(), NodeTransport.layerServer({ port: 0 })])
      )
    )
    const { stats } = Context.get(services, Numbers.Server)
    openAll()
    while (true) {
      const { totals } = yield* stats
      if (totals.connectionsRefused > 0) return console.log(`refused: ${totals.connectionsRefused}`)
      yield* Effect.sleep("50 millis")
    }
  }).pipe(Effect.scoped, Effect.provide(Logger.layer([log])))
)
process.exit(0)
