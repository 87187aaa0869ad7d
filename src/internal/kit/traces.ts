/** Spans of messages: the W3C form that goes with a message, and spans as OpenTelemetry's messaging conventions have them. */
import { Effect, type Fiber, Tracer } from "effect"
import { isId } from "../../core/Text.ts"
import type { TracingOptions } from "../../Message.ts"

/** The length of a `traceparent` of version 00: no receiver reads a longer or shorter one. */
const traceparentLength = 55

/** The W3C form of the fiber's span, if there is one and its tracer's ids have that form. */
export const traceparent = ({ cache: { span } }: Fiber.Fiber<unknown, unknown>): string | undefined => {
  if (span === undefined) return undefined
  const text = `00-${span.traceId.padStart(32, "0")}-${span.spanId}-${span.sampled ? "01" : "00"}`
  return text.length === traceparentLength && isId(text) ? text : undefined
}

/** The span that a `traceparent` names. */
export const parentOf = (text: string): Tracer.ExternalSpan | undefined => {
  const [, traceId, spanId, flags] = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/.exec(text) ?? []
  if (traceId === undefined || spanId === undefined || flags === undefined) return undefined
  return Tracer.externalSpan({ traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 })
}

export interface Tracing {
  /** Whether messages take the sender's span along. */
  readonly isOn: boolean
  /** A handler's attempt, in a span below the sender's, if the message came with one. */
  readonly handling: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    message: { readonly trace: string | undefined; readonly messageId: string | undefined },
    attempt: number
  ) => Effect.Effect<A, E, R>
  /** A send, in a span of its own if the program wants one. */
  readonly sending: <A, E, R>(
    send: Effect.Effect<A, E, R>,
    attributesOf: (sent: A) => Readonly<Record<string, unknown>>
  ) => Effect.Effect<A, E, R>
}

export const makeTracing = (
  options: TracingOptions & { readonly contract?: { readonly id: string } | undefined }
): Tracing => {
  const { contract, disableTracing = false, producerSpans = false, spanAttributes, spanPrefix } = options
  const prefix = spanPrefix === undefined ? "" : `${spanPrefix}.`
  const named = (operation: "process" | "send") => ({
    name: `${prefix}${operation} ${contract?.id ?? "messages"}`,
    attributes: {
      "messaging.system": "resilient_websocket",
      "messaging.operation.type": operation,
      "messaging.operation.name": operation,
      ...(contract === undefined ? {} : { "messaging.destination.name": contract.id }),
      ...spanAttributes
    }
  })
  const process = named("process")
  const send = named("send")
  return {
    isOn: !disableTracing,
    handling: (effect, { messageId, trace }, attempt) => {
      const parent = trace === undefined || disableTracing ? undefined : parentOf(trace)
      if (parent === undefined) return effect
      const attributes = {
        ...process.attributes,
        ...(messageId === undefined ? {} : { "messaging.message.id": messageId }),
        "resilient_websocket.attempt": attempt
      }
      return Effect.withSpan(effect, process.name, { parent, kind: "consumer", attributes })
    },
    sending: (effect, attributesOf) =>
      producerSpans && !disableTracing
        ? Effect.withSpan(
          Effect.tap(effect, (sent) => Effect.annotateCurrentSpan(attributesOf(sent))),
          send.name,
          { kind: "producer", attributes: send.attributes }
        )
        : effect
  }
}

/** What a producer's span says of what was sent. */
export const one = ({ messageId }: { readonly messageId: string }) => ({ "messaging.message.id": messageId })
export const many = (receipts: ReadonlyArray<unknown>) => ({ "messaging.batch.message_count": receipts.length })
