/** Run as a program: a server that gives itself up, launched in the way that the first argument names. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { Effect, Layer, Schema } from "effect"
import { Contract, MemoryStore, MessageQueue } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"

const Talk = Contract.make("test/Talk", { toServer: Schema.String, toClient: Schema.String })

const Failing = Layer.effect(
  MessageQueue.MessageQueue,
  Effect.map(MessageQueue.MessageQueue, (queue) => ({ ...queue, expire: () => Effect.die(new Error("the bomb")) }))
)

const Server = Talk.layerServer({
  expirySweep: "10 millis",
  restartIntensity: { restarts: 1, period: "1 minute" }
}).pipe(
  Layer.provide(Failing.pipe(Layer.provideMerge(MemoryStore.layer()))),
  Layer.provide(NodeTransport.layerServer({ port: 0 }))
)

const Beside = Layer.effectDiscard(Effect.yieldNow)
const Above = Layer.effectDiscard(Effect.asVoid(Talk.Server))

const programs: Record<string, Effect.Effect<unknown, unknown>> = {
  alone: Layer.launch(Server),
  beside: Layer.launch(Layer.merge(Beside, Server)),
  deep: Layer.launch(Layer.merge(Beside, Layer.merge(Above.pipe(Layer.provide([Server, Beside])), Beside))),
  provided: Effect.andThen(Talk.Server, Effect.never).pipe(Effect.provide(Server))
}

NodeRuntime.runMain(programs[process.argv[2] ?? ""] ?? Effect.die("no such way"))
