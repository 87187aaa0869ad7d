/** Options from `Config`: what is wrong there is a failure of the layer, not a defect of the program. */
import { assert, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Layer } from "effect"
import { CircuitBreaker, Deduplicator, MessageQueue, SessionRegistry } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { SqliteClient, SqliteStore } from "resilient-websocket/sqlite"

const number = Config.Number("NUMBER")
const layers: Record<string, Layer.Layer<never, unknown>> = {
  "MessageQueue: maxMessages": MessageQueue.layerMemoryConfig({ maxMessages: number }),
  "Deduplicator: maxKeys": Deduplicator.layerMemoryConfig({ maxKeys: number }),
  "SessionRegistry: maxSessions": SessionRegistry.layerMemoryConfig({ maxSessions: number }),
  "CircuitBreaker: openCap": CircuitBreaker.layerConfig({ endpoint: { openCap: number } }),
  "NodeTransport: port": NodeTransport.layerServerConfig({ port: number }),
  "SqliteClient: busyTimeout": SqliteClient.layerConfig({ filename: Config.succeed(":memory:"), busyTimeout: number }),
  "SqliteStore: callTimeout": SqliteStore.layerConfig({ filename: Config.succeed(":memory:"), callTimeout: number })
}

it.effect.each(Object.keys(layers))("%s out of range", (name) =>
  Effect.gen(function*() {
    const layer = layers[name] ?? Layer.empty
    const error = yield* Effect.flip(Effect.scoped(Layer.build(layer)))
    assert.instanceOf(error, Config.ConfigError)
    assert.include(error.message, "got -1")
  }).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ NUMBER: -1 })))))
