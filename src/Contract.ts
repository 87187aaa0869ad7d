/**
 * What two programs may say to each other, stated once and shared by both.
 *
 * **Example**
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Contract } from "resilient-websocket"
 *
 * export class Chat extends Contract.make("app/Chat", {
 *   toServer: Schema.Struct({ say: Schema.String }),
 *   toClient: Schema.Struct({ said: Schema.String })
 * }) {}
 * ```
 *
 * @since 0.1.0
 */
import { type Config, Context, Effect, Layer, Predicate, type Redacted, type Schema, type Scope } from "effect"
import { idRule, isId } from "./core/Text.ts"
import * as Check from "./internal/kit/options.ts"
import * as Shapes from "./internal/run/optionShapes.ts"
import * as ResilientClient from "./ResilientClient.ts"
import * as ResilientServer from "./ResilientServer.ts"
import type { MessageQueueError, TransportError } from "./WebSocketError.ts"

/** @since 0.1.0 @category type ids */
export const TypeId = "~resilient-websocket/Contract"

/**
 * In the requirements of an effect: the server of the contract named `Id`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ServerOf<Id extends string> {
  readonly _: "resilient-websocket/Contract/Server"
  readonly id: Id
}

/**
 * In the requirements of an effect: the client of the contract named `Id`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientOf<Id extends string> {
  readonly _: "resilient-websocket/Contract/Client"
  readonly id: Id
}

/**
 * What the coding of a contract's messages needs.
 *
 * @since 0.1.0
 * @category models
 */
export type CodingServices<ToServer extends Schema.Constraint, ToClient extends Schema.Constraint> =
  | ToServer["DecodingServices"]
  | ToServer["EncodingServices"]
  | ToClient["DecodingServices"]
  | ToClient["EncodingServices"]

/**
 * What a contract's server needs, of which `R` are the functions in its options.
 *
 * @since 0.1.0
 * @category models
 */
export type ServerServices<ToServer extends Schema.Constraint, ToClient extends Schema.Constraint, R> =
  | ResilientServer.Dependencies
  | CodingServices<ToServer, ToClient>
  | R

/**
 * What a contract's client needs, likewise.
 *
 * @since 0.1.0
 * @category models
 */
export type ClientServices<ToServer extends Schema.Constraint, ToClient extends Schema.Constraint, R> =
  | ResilientClient.Dependencies
  | CodingServices<ToServer, ToClient>
  | R

/**
 * Options of a contract's server: those of `ResilientServer.make` without the Schemas.
 *
 * @since 0.1.0
 * @category models
 */
export type ServerOptions<
  In,
  Out,
  Data = unknown,
  E = unknown,
  RMessage = never,
  RGap = RMessage,
  RLetter = RMessage,
  REvent = RMessage,
  RAuthenticate = RMessage,
  RRetry = RMessage
> = Omit<
  ResilientServer.Options<In, Out, Data, E, RMessage, RGap, RLetter, REvent, RAuthenticate, RRetry>,
  "incoming" | "outgoing" | "contract"
>

/**
 * Options of a contract's client: those of `ResilientClient.make` without the Schemas.
 *
 * @since 0.1.0
 * @category models
 */
export type ClientOptions<
  In,
  Out,
  E = unknown,
  RMessage = never,
  RGap = RMessage,
  RLetter = RMessage,
  RState = RMessage,
  RUrl = RMessage,
  RToken = RMessage,
  RRetry = RMessage
> = Omit<
  ResilientClient.Options<In, Out, E, RMessage, RGap, RLetter, RState, RUrl, RToken, RRetry>,
  "incoming" | "outgoing" | "contract"
>

/**
 * Options that are functions of the program, and so come from no configuration.
 *
 * @since 0.1.0
 * @category models
 */
export type ServerHook =
  | "authenticate"
  | "onMessage"
  | "onGap"
  | "onDeadLetter"
  | "onConnectionEvent"
  | "shareOf"
  | "handlerRetry"
/** @since 0.1.0 @category models */
export type ClientHook = "onMessage" | "onGap" | "onDeadLetter" | "onStateChange" | "handlerRetry" | "token"

/**
 * Options of a contract's server that may come from `Config`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ServerSettings extends Omit<ServerOptions<never, never>, ServerHook> {}

/**
 * Options of a contract's client that may come from `Config`.
 *
 * @since 0.1.0
 * @category models
 */
export interface ClientSettings extends Omit<ClientOptions<never, never>, ClientHook | "url"> {
  readonly url: string
  readonly token?: Redacted.Redacted | undefined
}

/**
 * A contract: the two services it makes, and their layers. Extend it, or use it as a value.
 *
 * @since 0.1.0
 * @category models
 */
export interface Contract<
  in out Id extends string,
  in out ToServer extends Schema.Constraint,
  in out ToClient extends Schema.Constraint
> {
  new(_: never): {}
  readonly [TypeId]: typeof TypeId
  readonly id: Id
  readonly version: string | undefined
  /** The Schema of messages to the server. */
  readonly toServer: ToServer
  /** The Schema of messages to the client. */
  readonly toClient: ToClient
  /** The server, as a service. */
  readonly Server: Context.Service<
    ServerOf<Id>,
    ResilientServer.ResilientServer<ToServer["Type"], ToClient["Type"]>
  >
  /** The client, as a service. */
  readonly Client: Context.Service<
    ClientOf<Id>,
    ResilientClient.ResilientClient<ToClient["Type"], ToServer["Type"]>
  >
  /** Runs a server as long as the layer lives. */
  readonly layerServer: <
    Data = unknown,
    E = never,
    RMessage = never,
    RGap = never,
    RLetter = never,
    REvent = never,
    RAuthenticate = never,
    RRetry = never
  >(
    options?: ServerOptions<
      ToServer["Type"],
      ToClient["Type"],
      Data,
      E,
      RMessage,
      RGap,
      RLetter,
      REvent,
      RAuthenticate,
      RRetry
    >
  ) => Layer.Layer<
    ServerOf<Id>,
    TransportError,
    ServerServices<ToServer, ToClient, RMessage | RGap | RLetter | REvent | RAuthenticate | RRetry>
  >
  /** `layerServer` with its settings read from `Config`; what are functions comes second. */
  readonly layerServerConfig: <
    Data = unknown,
    E = never,
    RMessage = never,
    RGap = never,
    RLetter = never,
    REvent = never,
    RAuthenticate = never,
    RRetry = never
  >(
    settings: Config.Wrap<ServerSettings>,
    hooks?: Pick<
      ServerOptions<
        ToServer["Type"],
        ToClient["Type"],
        Data,
        E,
        RMessage,
        RGap,
        RLetter,
        REvent,
        RAuthenticate,
        RRetry
      >,
      ServerHook
    >
  ) => Layer.Layer<
    ServerOf<Id>,
    TransportError | Config.ConfigError,
    ServerServices<ToServer, ToClient, RMessage | RGap | RLetter | REvent | RAuthenticate | RRetry>
  >
  /** A server in the current scope, for those that are made at run time. */
  readonly makeServer: <
    Data = unknown,
    E = never,
    RMessage = never,
    RGap = never,
    RLetter = never,
    REvent = never,
    RAuthenticate = never,
    RRetry = never
  >(
    options?: ServerOptions<
      ToServer["Type"],
      ToClient["Type"],
      Data,
      E,
      RMessage,
      RGap,
      RLetter,
      REvent,
      RAuthenticate,
      RRetry
    >
  ) => Effect.Effect<
    ResilientServer.ResilientServer<ToServer["Type"], ToClient["Type"]>,
    TransportError,
    Scope.Scope | ServerServices<ToServer, ToClient, RMessage | RGap | RLetter | REvent | RAuthenticate | RRetry>
  >
  /** Runs a client as long as the layer lives. */
  readonly layerClient: <
    E = never,
    RMessage = never,
    RGap = never,
    RLetter = never,
    RState = never,
    RUrl = never,
    RToken = never,
    RRetry = never
  >(
    options: ClientOptions<ToClient["Type"], ToServer["Type"], E, RMessage, RGap, RLetter, RState, RUrl, RToken, RRetry>
  ) => Layer.Layer<
    ClientOf<Id>,
    MessageQueueError,
    ClientServices<ToServer, ToClient, RMessage | RGap | RLetter | RState | RUrl | RToken | RRetry>
  >
  /** `layerClient` with its settings read from `Config`; what are functions comes second. */
  readonly layerClientConfig: <
    E = never,
    RMessage = never,
    RGap = never,
    RLetter = never,
    RState = never,
    RRetry = never
  >(
    settings: Config.Wrap<ClientSettings>,
    hooks?: Omit<
      Pick<
        ClientOptions<ToClient["Type"], ToServer["Type"], E, RMessage, RGap, RLetter, RState, never, never, RRetry>,
        ClientHook
      >,
      "token"
    >
  ) => Layer.Layer<
    ClientOf<Id>,
    MessageQueueError | Config.ConfigError,
    ClientServices<ToServer, ToClient, RMessage | RGap | RLetter | RState | RRetry>
  >
  /** A client in the current scope, for those that are made at run time, such as one for each user. */
  readonly makeClient: <
    E = never,
    RMessage = never,
    RGap = never,
    RLetter = never,
    RState = never,
    RUrl = never,
    RToken = never,
    RRetry = never
  >(
    options: ClientOptions<ToClient["Type"], ToServer["Type"], E, RMessage, RGap, RLetter, RState, RUrl, RToken, RRetry>
  ) => Effect.Effect<
    ResilientClient.ResilientClient<ToClient["Type"], ToServer["Type"]>,
    MessageQueueError,
    Scope.Scope | ClientServices<ToServer, ToClient, RMessage | RGap | RLetter | RState | RUrl | RToken | RRetry>
  >
}

/**
 * Any contract, as far as all are alike.
 *
 * @since 0.1.0
 * @category models
 */
export interface Any {
  readonly [TypeId]: typeof TypeId
  readonly id: string
  readonly version: string | undefined
  readonly toServer: Schema.Constraint
  readonly toClient: Schema.Constraint
}

/**
 * Whether this is a contract.
 *
 * @since 0.1.0
 * @category guards
 */
export const isContract = (u: unknown): u is Any => Predicate.hasProperty(u, TypeId)

/**
 * Makes a contract from its name, which should begin with your package's, and the Schemas of the messages each way.
 * They go over the wire as `Schema.toCodecJson` says, so that a Date, an Option, NaN or a class arrives as it was sent.
 * Coding must be synchronous; the services that it needs are the layers' and constructors' needs. Throws if a Schema has
 * keys that JSON can't have: symbols, `__proto__`; the message says where.
 *
 * A client names its contract in the handshake. A server of another contract, or of another `version` of this one if
 * both name one, turns it away with both names, and the client is `Stopped`.
 *
 * **Details.** If a Schema accepts a message that JSON would change, `send` fails with a `PayloadError` that has the
 * path: nothing arrives as something else. Where the Schema alone can't tell (something is coded, or a union's members
 * overlap), `send` decodes what it has encoded and compares, which costs about as much again. Keys that a Struct does
 * not have are no part of a message and are left out.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <
  const Id extends string,
  ToServer extends Schema.Constraint,
  ToClient extends Schema.Constraint
>(
  id: Id,
  options: {
    readonly toServer: ToServer
    readonly toClient: ToClient
    /** Change it when old clients can't go on. Default: not compared. */
    readonly version?: string | undefined
  }
): Contract<Id, ToServer, ToClient> => {
  type Services = CodingServices<ToServer, ToClient>
  const { version } = options
  // What each needs is part of what both need, and whatever they encode to is unknown.
  const toServer = options.toServer as unknown as Schema.Codec<ToServer["Type"], unknown, Services, Services>
  const toClient = options.toClient as unknown as Schema.Codec<ToClient["Type"], unknown, Services, Services>
  checkName("id", id)
  if (version !== undefined) checkName("version", version)
  checkSchema(`contract ${id}: toServer`, toServer)
  checkSchema(`contract ${id}: toClient`, toClient)
  const contract = { id, version }
  const Server: Contract<Id, ToServer, ToClient>["Server"] = Context.Service(`${id}/Server`)
  const Client: Contract<Id, ToServer, ToClient>["Client"] = Context.Service(`${id}/Client`)
  const makeServer: Contract<Id, ToServer, ToClient>["makeServer"] = (given) =>
    Effect.suspend(() => {
      Check.check(given, Shapes.contractServer)
      return ResilientServer.make({ ...given, incoming: toServer, outgoing: toClient, contract })
    })
  const makeClient: Contract<Id, ToServer, ToClient>["makeClient"] = (given) =>
    Effect.suspend(() => {
      Check.check(given, Shapes.contractClient)
      return ResilientClient.make({ ...given, incoming: toClient, outgoing: toServer, contract })
    })
  const layerServer: Contract<Id, ToServer, ToClient>["layerServer"] = (given) =>
    Layer.effect(Server, makeServer(given))
  const layerClient: Contract<Id, ToServer, ToClient>["layerClient"] = (given) =>
    Layer.effect(Client, makeClient(given))
  const statics: Omit<Contract<Id, ToServer, ToClient>, never> = {
    [TypeId]: TypeId,
    ...contract,
    toServer: options.toServer,
    toClient: options.toClient,
    Server,
    Client,
    layerServer,
    layerServerConfig: (settings, hooks) => Check.fromConfig(settings, (given) => layerServer({ ...hooks, ...given })),
    makeServer,
    layerClient,
    layerClientConfig: (settings, hooks) => Check.fromConfig(settings, (given) => layerClient({ ...hooks, ...given })),
    makeClient
  }
  // A function, so that classes can extend it.
  return Object.assign(function() {} as unknown as new(_: never) => {}, statics)
}

const checkName = (name: string, value: string): void => {
  if (!isId(value)) throw new Check.OptionError(`the ${name} of a contract must be ${idRule}`)
}

const checkSchema = <A, R>(name: string, schema: Schema.Codec<A, unknown, R, R>): void => {
  const fault = Check.schemaFault(schema)
  if (fault !== undefined) throw new Check.OptionError(`${name} can't go over the wire ${fault}`)
}
