/** Checked by the compiler alone: whoever catches every tag of the union has nothing left to catch. */
import { Effect } from "effect"
import type { ResilientClient, ResilientServer, WebSocketError } from "resilient-websocket"

type Expect<Actual, Wanted> = [Actual] extends [Wanted] ? [Wanted] extends [Actual] ? true : false : false

declare const failing: Effect.Effect<number, WebSocketError.WebSocketError>

const all = failing.pipe(Effect.catchTags({
  "resilient-websocket/MessageQueueError": ({ reason, session }) => Effect.succeed(`${session} ${reason}`),
  "resilient-websocket/QueueOverflowError": ({ bound, limit, retryAfterMillis, size }) =>
    Effect.succeed(`${limit} ${size}/${bound} ${retryAfterMillis ?? 0}`),
  "resilient-websocket/DeduplicationError": ({ key, reason }) => Effect.succeed(`${key} ${reason}`),
  "resilient-websocket/CircuitBreakerError": ({ circuit, retryAfterMillis }) =>
    Effect.succeed(`${circuit} ${retryAfterMillis ?? 0}`),
  "resilient-websocket/ConnectionTimeoutError": ({ afterMillis, phase }) => Effect.succeed(`${phase} ${afterMillis}`),
  "resilient-websocket/ShutdownError": ({ component }) => Effect.succeed(component),
  "resilient-websocket/SessionNotFoundError": ({ session }) => Effect.succeed(session),
  "resilient-websocket/SessionRegistryError": ({ operation }) => Effect.succeed(operation),
  "resilient-websocket/HandshakeError": ({ reason, retryable }) => Effect.succeed(`${reason} ${retryable}`),
  "resilient-websocket/ProtocolError": ({ code, detail }) => Effect.succeed(`${code} ${detail}`),
  "resilient-websocket/PayloadError": ({ direction }) => Effect.succeed(direction),
  "resilient-websocket/TransportError": ({ operation }) => Effect.succeed(operation),
  "resilient-websocket/DeadLetterError": ({ maybeHandled, reason }) => Effect.succeed(`${reason} ${maybeHandled}`)
}))

export const nothingIsLeft: Expect<Effect.Error<typeof all>, never> = true

const one = failing.pipe(Effect.catchTag("resilient-websocket/ShutdownError", () => Effect.succeed(0)))

// If this were true too, the check above would show nothing.
export const somethingIsLeft: Expect<Effect.Error<typeof one>, never> = false

type Failures<A> = {
  [K in keyof A]: A[K] extends Effect.Effect<infer _, infer E, infer _> ? E
    : A[K] extends (...args: infer _) => Effect.Effect<infer _, infer E, infer _> ? E
    : never
}[keyof A]

/** What the two services can fail with is in the union, and nothing else is. */
export const publicFailures: Expect<
  Exclude<
    | Failures<ResilientServer.ResilientServer<string, string>>
    | Failures<ResilientClient.ResilientClient<string, string>>,
    WebSocketError.WebSocketError
  >,
  never
> = true
