/** One trace from the sender to the handler, of every kind of send and every attempt; as a collector gets it. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Option, Schedule, Schema, type Tracer } from "effect"
import { FetchHttpClient, HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { NetAddress } from "effect/net"
import { OtlpSerialization, OtlpTracer } from "effect/observability"
import { createServer } from "node:http"
import { Contract, MemoryStore, Message } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import * as H from "./support/harness.ts"

interface Seen {
  readonly text: string
  readonly name: string
  readonly kind: string
  readonly traceId: string
  readonly parent: string | undefined
  readonly attributes: Record<string, unknown>
}

/** Notes the handler's span; undefined if it has none. */
const noting = (seen: Array<Seen | undefined>) => (text: string) =>
  Effect.map(Effect.option(Effect.currentSpan), (found) => {
    const span: Tracer.Span | undefined = Option.getOrUndefined(found)
    seen.push(
      span && {
        text,
        name: span.name,
        kind: span.kind,
        traceId: span.traceId,
        parent: Option.getOrUndefined(span.parent)?.spanId,
        attributes: Object.fromEntries(span.attributes)
      }
    )
  })

describe("a handler's span", () => {
  it.effect("is the child of the span that sent the message, however it was sent", () =>
    Effect.gen(function*() {
      const seen: Array<Seen | undefined> = []
      const { client, server } = yield* H.connected({
        server: { onMessage: noting(seen) },
        client: { onMessage: noting(seen) }
      })
      const sender = yield* Effect.gen(function*() {
        yield* client.send("reliable")
        yield* client.send("volatile", { volatile: true })
        yield* client.send("volatile, once", { volatile: true, id: "id" })
        yield* client.sendAll(["all 1", "all 2"])
        yield* server.send("alice", "down")
        yield* server.broadcast("to all")
        return yield* Effect.currentSpan
      }).pipe(Effect.withSpan("sender"))
      yield* H.until("all are handled", () => seen.length === 7)
      assert.sameMembers(seen.map((span) => span?.text), [
        "reliable",
        "volatile",
        "volatile, once",
        "all 1",
        "all 2",
        "down",
        "to all"
      ])
      for (const span of seen) {
        assert.deepInclude(span, { traceId: sender.traceId, parent: sender.spanId, kind: "consumer" })
        assert.deepInclude(span?.attributes, {
          "messaging.operation.type": "process",
          "resilient_websocket.attempt": 1
        })
      }
      yield* client.send("outside")
      yield* H.until("it is handled", () => seen.length === 8)
      assert.isUndefined(seen[7])
    }))

  it.effect("is there for every attempt", () =>
    Effect.gen(function*() {
      const seen: Array<Seen | undefined> = []
      const { client } = yield* H.connected({
        server: {
          onMessage: (text) =>
            Effect.andThen(noting(seen)(text), Effect.suspend(() => seen.length < 3 ? Effect.fail("no") : Effect.void)),
          handlerRetry: Schedule.recurs(5)
        }
      })
      const { traceId } = yield* Effect.withSpan(Effect.andThen(client.send("x"), Effect.currentSpan), "sender")
      yield* H.until("it is handled", () => seen.length === 3)
      assert.deepStrictEqual(seen.map((span) => [span?.traceId, span?.attributes["resilient_websocket.attempt"]]), [
        [traceId, 1],
        [traceId, 2],
        [traceId, 3]
      ])
    }))

  it.effect("can be made by who reads the stream, and is not made at all if so told", () =>
    Effect.gen(function*() {
      const { client, server } = yield* H.connected({ server: { onMessage: undefined } })
      const read = yield* H.collect(server.messages)
      const { spanId } = yield* Effect.withSpan(Effect.andThen(client.send("x"), Effect.currentSpan), "sender")
      yield* H.until("it is read", () => read.length === 1)
      assert.strictEqual(read[0] && Message.parentSpan(read[0])?.spanId, spanId)

      const seen: Array<Seen | undefined> = []
      const silent = yield* H.connected({ server: { onMessage: noting(seen), disableTracing: true } })
      yield* (yield* Effect.withSpan(silent.client.send("x"), "sender")).handled
      const mute = yield* H.connected({ server: { onMessage: noting(seen) }, client: { disableTracing: true } })
      yield* (yield* Effect.withSpan(mute.client.send("x"), "sender")).handled
      assert.deepStrictEqual(seen, [undefined, undefined])
    }))
})

/** What an OTLP collector takes in, as far as it is looked at here. */
const Export = Schema.Struct({
  resourceSpans: Schema.Array(Schema.Struct({
    scopeSpans: Schema.Array(Schema.Struct({
      spans: Schema.Array(Schema.Struct({
        name: Schema.String,
        kind: Schema.Int,
        traceId: Schema.String,
        spanId: Schema.String,
        parentSpanId: Schema.optional(Schema.String),
        attributes: Schema.Array(Schema.Struct({ key: Schema.String, value: Schema.Unknown }))
      }))
    }))
  }))
})
type Exported = typeof Export.Type["resourceSpans"][number]["scopeSpans"][number]["spans"][number]

class Chat extends Contract.make("test/Chat", { toServer: Schema.String, toClient: Schema.String }) {}

describe("a collector", () => {
  it.live("gets the producer's span and the consumer's, as the messaging conventions have them", () =>
    Effect.gen(function*() {
      const spans: Array<Exported> = []
      const Collector = HttpRouter.serve(
        HttpRouter.add(
          "POST",
          "/v1/traces",
          Effect.map(HttpServerRequest.schemaBodyJson(Export), ({ resourceSpans }) => {
            spans.push(...resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans)))
            return HttpServerResponse.empty()
          })
        ),
        { disableLogger: true, disableListenLog: true }
      ).pipe(Layer.provideMerge(NodeHttpServer.layer(createServer, { port: 0, host: "127.0.0.1" })))
      const { address } = Context.get(yield* Layer.build(Collector), HttpServer.HttpServer)
      const port = NetAddress.isInetAddress(address) ? address.port : assert.fail("no port")
      const Tracing = OtlpTracer.layer({
        url: `http://127.0.0.1:${port}/v1/traces`,
        resource: { serviceName: "test" },
        exportInterval: "20 millis"
      }).pipe(
        Layer.provide([FetchHttpClient.layer, OtlpSerialization.layerJson])
      )
      const own = { spanPrefix: "shop", spanAttributes: { "deployment.environment.name": "test" } }
      const Server = Chat.layerServer({ onMessage: () => Effect.void, ...own }).pipe(
        Layer.provide([MemoryStore.layer(), NodeTransport.layerServer({ port: 0 })])
      )
      yield* Effect.gen(function*() {
        const { address } = yield* Chat.Server
        const client = yield* Chat.makeClient({ url: `ws://127.0.0.1:${address.port}`, producerSpans: true }).pipe(
          Effect.provide([MemoryStore.layer(), NodeTransport.layerClient])
        )
        const receipt = yield* Effect.withSpan(client.send("hello"), "request")
        yield* receipt.handled
        yield* H.until("all are exported", () => spans.length >= 3)
        const [request, producer, consumer] = ["request", "send test/Chat", "shop.process test/Chat"].map((name) =>
          spans.find((span) => span.name === name)
        )
        assert.strictEqual(producer?.parentSpanId, request?.spanId)
        assert.strictEqual(consumer?.parentSpanId, producer?.spanId)
        assert.deepStrictEqual([producer?.kind, consumer?.kind], [4, 5]) // PRODUCER, CONSUMER
        assert.strictEqual(new Set([request, producer, consumer].map((span) => span?.traceId)).size, 1)
        const attributes = (span: Exported | undefined) =>
          Object.fromEntries((span?.attributes ?? []).map(({ key, value }) => [key, JSON.stringify(value)]))
        assert.deepInclude(attributes(consumer), {
          "messaging.system": `{"stringValue":"resilient_websocket"}`,
          "messaging.operation.type": `{"stringValue":"process"}`,
          "messaging.destination.name": `{"stringValue":"test/Chat"}`,
          "messaging.message.id": JSON.stringify({ stringValue: receipt.messageId }),
          "resilient_websocket.attempt": `{"intValue":1}`,
          "deployment.environment.name": `{"stringValue":"test"}`
        })
        assert.strictEqual(attributes(producer)["messaging.operation.type"], `{"stringValue":"send"}`)
        assert.isFalse(JSON.stringify(spans).includes(`"session"`))
      }).pipe(Effect.scoped, Effect.provide(Server), Effect.provide(Tracing))
    }).pipe(Effect.scoped))
})
