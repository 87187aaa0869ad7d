/** Checked by the compiler alone: whoever catches every tag of the union has nothing left to catch. */
import { Effect } from "effect"
import type { ResilientClient, ResilientServer, WebSocketError } from "resilient-websocket"

type Expect<Actual, Wanted> = [Actual] extends [Wanted] ? [Wanted] extends [Actual] ? true : false : false

declare const failing: Effect.Effect<number, WebSocketError.WebSocketError>

const all = failing.pipe(Effect.catchTags({
  MessageQueueError: ({ reason, session }) => Effect.succeed(`${session} ${reason}`),
  QueueOverflowError: ({ bound, limit, retryAfterMillis, size }) =>
    Effect.succeed(`${limit} ${size}/${bound} ${retryAfterMillis ?? 0}`),
  DeduplicationError: ({ key, reason }) => Effect.succeed(`${key} ${reason}`),
  CircuitBreakerError: ({ circuit, retryAfterMillis }) => Effect.succeed(`${circuit} ${retryAfterMillis ?? 0}`),
  ConnectionTimeoutError: ({ afterMillis, phase }) => Effect.succeed(`${phase} ${afterMillis}`),
  ShutdownError: ({ component }) => Effect.succeed(component),
  SessionNotFoundError: ({ session }) => Effect.succeed(session),
  SessionRegistryError: ({ operation }) => Effect.succeed(operation),
  HandshakeError: ({ reason, retryable }) => Effect.succeed(`${reason} ${retryable}`),
  ProtocolError: ({ code, detail }) => Effect.succeed(`${code} ${detail}`),
  PayloadError: ({ direction }) => Effect.succeed(direction),
  TransportError: ({ operation }) => Effect.succeed(operation),
  DeadLetterError: ({ maybeHandled, reason }) => Effect.succeed(`${reason} ${maybeHandled}`)
}))

export const nothingIsLeft: Expect<Effect.Error<typeof all>, never> = true

const one = failing.pipe(Effect.catchTag("ShutdownError", () => Effect.succeed(0)))

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
