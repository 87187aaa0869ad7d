/** Checked by the compiler alone: each thing that varies has a type of its own, and arrives where it should. */
import { type Config, Context, Effect, type Layer, Redacted, Schedule, Schema, type Scope } from "effect"
import {
  Contract,
  MemoryStore,
  type Message,
  type MessageQueue,
  type ResilientClient,
  type ResilientServer,
  type SessionRegistry,
  Transport,
  WebSocketError
} from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"

type Same<A, B> = [A] extends [B] ? [B] extends [A] ? true : false : false
const yes = <_ extends true>(): true => true

declare class Auth extends Context.Service<Auth, { readonly auth: true }>()("Auth") {}
declare class Handler extends Context.Service<Handler, { readonly handler: true }>()("Handler") {}
declare class Gap extends Context.Service<Gap, { readonly gap: true }>()("Gap") {}
declare class Letter extends Context.Service<Letter, { readonly letter: true }>()("Letter") {}
declare class Event extends Context.Service<Event, { readonly event: true }>()("Event") {}
declare class Url extends Context.Service<Url, { readonly url: true }>()("Url") {}
declare class Token extends Context.Service<Token, { readonly token: true }>()("Token") {}
declare class Retry extends Context.Service<Retry, { readonly retry: true }>()("Retry") {}
declare class Coding extends Context.Service<Coding, { readonly coding: true }>()("Coding") {}
declare const needs: <S>(service: S) => Effect.Effect<void, never, S extends new(...args: never) => infer A ? A : never>
declare const retry: Schedule.Schedule<number, unknown, never, Retry>
declare const Coded: Schema.Codec<string, string, Coding, Coding>
class Failed extends Schema.TaggedError<Failed>()("Failed", {}) {}

class Chat extends Contract.make("test/Chat", { toServer: Coded, toClient: Schema.Number }) {}

const server = Chat.layerServer({
  authenticate: () => Effect.as(needs(Auth), { data: { role: "agent" as const } }),
  onMessage: (message, { data, principal, server }) => {
    yes<Same<typeof message, string>>()
    yes<Same<typeof data, { role: "agent" } | undefined>>()
    yes<Same<typeof principal, string | undefined>>()
    yes<Same<typeof server, ResilientServer.ResilientServer<string, number>>>()
    return Effect.andThen(needs(Handler), new Failed())
  },
  onGap: () => needs(Gap),
  onDeadLetter: () => needs(Letter),
  onConnectionEvent: () => needs(Event),
  handlerRetry: retry
})

const client = Chat.layerClient({
  url: Effect.as(needs(Url), "ws://x"),
  token: Effect.as(needs(Token), Redacted.make("t")),
  onMessage: (message) => {
    yes<Same<typeof message, number>>()
    return needs(Handler)
  },
  onStateChange: () => needs(Event)
})

type Services<L> = L extends Layer.Layer<infer _A, infer _E, infer R> ? R : never
type Errors<L> = L extends Layer.Layer<infer _A, infer E, infer _R> ? E : never

export const layers = {
  server: yes<
    Same<
      Services<typeof server>,
      ResilientServer.Dependencies | Auth | Handler | Gap | Letter | Event | Retry | Coding
    >
  >(),
  serverFails: yes<Same<Errors<typeof server>, WebSocketError.TransportError>>(),
  client: yes<
    Same<Services<typeof client>, ResilientClient.Dependencies | Url | Token | Handler | Event | Coding>
  >(),
  clientFails: yes<Same<Errors<typeof client>, WebSocketError.MessageQueueError>>(),
  // No Config is read, so none can be wrong.
  store: yes<Same<Errors<ReturnType<typeof MemoryStore.layer>>, never>>(),
  transport: yes<Same<Errors<ReturnType<typeof NodeTransport.layerServer>>, never>>(),
  router: yes<Same<Services<ReturnType<typeof Transport.layerServerHttpRouter>>, Transport.HttpRouterServices>>(),
  config: yes<
    Same<Errors<ReturnType<typeof NodeTransport.layerServerConfig>>, Config.ConfigError>
  >()
}

type Failure<F> = F extends (...args: never) => Effect.Effect<infer _A, infer E, infer _R> ? E : never
type Server = ResilientServer.ResilientServer<string, number>
type Client = ResilientClient.ResilientClient<number, string>

/** Channels no wider than what can happen. */
export const channels = {
  locate: yes<Same<Failure<Client["locate"]>, WebSocketError.MessageQueueError | WebSocketError.DeduplicationError>>(),
  register: yes<
    Same<Failure<Server["register"]>, WebSocketError.AcceptError | WebSocketError.ShutdownError>
  >(),
  awaitConnected: yes<
    Same<Failure<Client["awaitConnected"]>, WebSocketError.ConnectError | WebSocketError.ShutdownError>
  >(),
  shutdownWith: yes<Same<Failure<Server["shutdownWith"]>, never>>(),
  send: yes<Same<Failure<Client["send"]>, Message.SendError | WebSocketError.ShutdownError>>(),
  state: yes<
    Same<Extract<ResilientClient.ConnectionState, { _tag: "Stopped" }>["error"], WebSocketError.ConnectError>
  >()
}

/** A schedule that looks at what it is given gets the errors of the handler, but rejections. */
export const retries = Chat.layerServer({
  onMessage: (message) =>
    Effect.gen(function*() {
      if (message === "") return yield* new WebSocketError.MessageRejected({ detail: "empty" })
      return yield* new Failed()
    }),
  handlerRetry: ($) =>
    $(Schedule.recurs(3)).pipe(Schedule.while(({ input }) => {
      yes<Same<typeof input, Failed>>()
      return true
    }))
})

declare const onlyFor: Schedule.Schedule<number, { readonly _tag: "Other" }>
export const wrong = [
  // @ts-expect-error the handler fails with something else
  Chat.layerServer({ onMessage: () => new Failed(), handlerRetry: onlyFor }),
  // @ts-expect-error there is no such option
  Chat.layerServer({ onMesage: () => Effect.void }),
  // @ts-expect-error a secret is Redacted
  Chat.layerClient({ url: "ws://x", token: "secret" }),
  // @ts-expect-error hooks for events are effects
  Chat.layerServer({ onDeadLetter: () => undefined }),
  // @ts-expect-error the contract has its Schemas
  Chat.layerServer({ incoming: Schema.String }),
  // @ts-expect-error it is called `session`
  Chat.layerServer({ authenticate: () => Effect.succeed({ sessionId: "x" }) })
]

/** Made at run time, in a scope. */
export const made: Effect.Effect<
  Client,
  WebSocketError.MessageQueueError,
  ResilientClient.Dependencies | Scope.Scope | Coding
> = Chat.makeClient({ url: "ws://x" })

export const schemas = {
  toServer: yes<Same<typeof Chat.toServer, typeof Coded>>(),
  toClient: yes<Same<typeof Chat.toClient, typeof Schema.Number>>(),
  services: yes<Same<Contract.CodingServices<typeof Chat.toServer, typeof Chat.toClient>, Coding>>(),
  named: yes<Same<MessageQueue.Failure[1], MessageQueue.FailureReason>>(),
  registry: yes<Same<SessionRegistry.StoredPosition["epoch"], string | null>>()
}

declare const connection: Transport.Connection
declare const running: Server
/** Who looks a session up may need services for it. */
export const registering = running.register(connection, { session: Effect.as(needs(Auth), "ann") })
export const registers = yes<Same<Effect.Services<typeof registering>, Auth>>()
