/** Checked by the compiler alone: what the promise face says in types of its own is what the library says. */
import type { Duration, Effect } from "effect"
import type {
  CircuitBreaker,
  Message,
  ResilientClient,
  ResilientServer,
  Transport,
  WebSocketError
} from "resilient-websocket"
import type * as Face from "resilient-websocket/promise"

type Same<A, B> = [A] extends [B] ? [B] extends [A] ? true : false : false

/** By the name of the class, which the tag ends with. */
type NameOf<Tag> = Tag extends `resilient-websocket/${infer Name}` ? Name : never
type Errors = {
  [Tag in WebSocketError.WebSocketError["_tag"] as NameOf<Tag>]: Extract<
    WebSocketError.WebSocketError,
    { readonly _tag: Tag }
  >
}
type FaceErrors = {
  [Tag in Face.WebSocketError["_tag"] as NameOf<Tag>]: Extract<Face.WebSocketError, { readonly _tag: Tag }>
}
/** What a class's Schema says that its errors have; what caused them is `cause`, as in every error. */
type Fields = {
  [Tag in keyof Errors]: Exclude<keyof (typeof WebSocketError)[Tag]["fields"], "cause" | "_tag">
}
type Own<A> = Exclude<keyof A, keyof Error | "_tag">

/** Each error has the same fields, of the same types. */
type Agreement = {
  [Tag in keyof Errors & keyof FaceErrors]: Same<
    Pick<Errors[Tag], Extract<Fields[Tag], keyof Errors[Tag]>>,
    Pick<FaceErrors[Tag], Own<FaceErrors[Tag]>>
  >
}

export const tags: Same<keyof Errors, keyof FaceErrors> = true

export const errors: Agreement = {
  MessageQueueError: true,
  QueueOverflowError: true,
  DeduplicationError: true,
  CircuitBreakerError: true,
  ConnectionTimeoutError: true,
  ShutdownError: true,
  SessionNotFoundError: true,
  SessionRegistryError: true,
  HandshakeError: true,
  ProtocolError: true,
  PayloadError: true,
  TransportError: true,
  DeadLetterError: true
}

const yes = <_ extends true>(): true => true

export const models = {
  reasons: yes<Same<WebSocketError.DeadLetterReason, Face.DeadLetterReason>>(),
  receipts: yes<
    Same<
      { [Tag in Message.Receipt["_tag"]]: Omit<Extract<Message.Receipt, { readonly _tag: Tag }>, "handled"> },
      { [Tag in Face.Receipt["_tag"]]: Omit<Extract<Face.Receipt, { readonly _tag: Tag }>, "handled"> }
    >
  >(),
  circuits: yes<Same<CircuitBreaker.Transition["to"], Face.CircuitChange["to"]>>()
}

/** Durations of this face are durations. */
export const duration = (value: Face.Duration): Duration.Input => value

/** Who a peer is is said in the same words, and in no others. */
export const identities = {
  same: yes<Same<keyof ResilientServer.Identity, keyof Face.Identity>>(),
  // @ts-expect-error it is called `session`
  hook: { authenticate: ({ token }) => ({ principal: token, sessionId: token }) } satisfies Face.ManagerOptions<
    unknown,
    unknown
  >
}

/** A program without Effect has no tracer. */
type Spans = "producerSpans" | "spanPrefix" | "spanAttributes" | "disableTracing"

/** Options that this face leaves out, as it has its own way, or no use for them. */
export const leftOut = {
  server: yes<
    Same<
      Exclude<keyof ResilientServer.Options<never, never>, keyof Face.ManagerOptions<never, never>>,
      "incoming" | "outgoing" | "contract" | "plainPeers" | "onDeadLetter" | "onConnectionEvent" | Spans
    >
  >(),
  client: yes<
    Same<
      Exclude<keyof ResilientClient.Options<never, never>, keyof Face.ClientOptions<never, never>>,
      "url" | "incoming" | "outgoing" | "contract" | "onDeadLetter" | "onStateChange" | Spans
    >
  >()
}

// If this were true too, the checks above would show nothing.
export const different: Same<Face.Duration, Effect.Effect<Transport.Connection>> = false
