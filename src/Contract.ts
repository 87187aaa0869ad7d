/**
 * What two programs may say to each other, stated once and shared by both.
 *
 * **Example**
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Contract } from "resilient-websocket"
 *
 * export const Chat = Contract.make("app/Chat", {
 *   toServer: Schema.Struct({ say: Schema.String }),
 *   toClient: Schema.Struct({ said: Schema.String })
 * })
 * ```
 *
 * @since 0.1.0
 */
import { Context, Layer, type Schema } from "effect"
import * as Check from "./internal/kit/options.ts"
import * as Shapes from "./internal/run/optionShapes.ts"
import * as ResilientClient from "./ResilientClient.ts"
import * as ResilientServer from "./ResilientServer.ts"
import type { MessageQueueError, TransportError } from "./WebSocketError.ts"

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
 * A contract: the two services it makes, and their layers.
 *
 * @since 0.1.0
 * @category models
 */
export interface Contract<Id extends string, ToServer, ToClient> {
  readonly id: Id
  /** The server, as a service. */
  readonly Server: Context.Service<ServerOf<Id>, ResilientServer.ResilientServer<ToServer, ToClient>>
  /** The client, as a service. */
  readonly Client: Context.Service<ClientOf<Id>, ResilientClient.ResilientClient<ToClient, ToServer>>
  /** Runs a server as long as the layer lives. */
  readonly layerServer: <R = never>(
    options?: Omit<ResilientServer.Options<ToServer, ToClient, R>, "incoming" | "outgoing">
  ) => Layer.Layer<ServerOf<Id>, TransportError, ResilientServer.Dependencies | R>
  /** Runs a client as long as the layer lives. */
  readonly layerClient: <R = never>(
    options: Omit<ResilientClient.Options<ToClient, ToServer, R>, "incoming" | "outgoing">
  ) => Layer.Layer<ClientOf<Id>, MessageQueueError, ResilientClient.Dependencies | R>
}

/**
 * Makes a contract from its name, which should begin with your package's, and the Schemas of the messages each way.
 * They go over the wire as `Schema.toCodecJson` says, so that a Date, an Option, NaN or a class arrives as it was sent;
 * coding must be synchronous and need no services. Throws a `TypeError` that says where, if a Schema has keys that JSON
 * can't have: symbols, `__proto__`.
 *
 * **Details.** If a Schema accepts a message that JSON would change, `send` fails with a `PayloadError` that has the
 * path: nothing arrives as something else. Where the Schema alone can't tell (something is coded, or a union's members
 * overlap), `send` decodes what it has encoded and compares, which costs about as much again. Keys that a Struct does
 * not have are no part of a message and are left out.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <const Id extends string, ToServer, ToClient>(
  id: Id,
  schemas: {
    readonly toServer: Schema.Codec<ToServer, unknown>
    readonly toClient: Schema.Codec<ToClient, unknown>
  }
): Contract<Id, ToServer, ToClient> => {
  const { toClient, toServer } = schemas
  checkSchema(`contract ${id}: toServer`, toServer)
  checkSchema(`contract ${id}: toClient`, toClient)
  const Server: Contract<Id, ToServer, ToClient>["Server"] = Context.Service(`${id}/Server`)
  const Client: Contract<Id, ToServer, ToClient>["Client"] = Context.Service(`${id}/Client`)
  return {
    id,
    Server,
    Client,
    layerServer: (options) =>
      Check.checkedLayer(
        options,
        Shapes.contractServer,
        () => Layer.effect(Server, ResilientServer.make({ ...options, incoming: toServer, outgoing: toClient }))
      ),
    layerClient: (options) =>
      Check.checkedLayer(
        options,
        Shapes.contractClient,
        () => Layer.effect(Client, ResilientClient.make({ ...options, incoming: toClient, outgoing: toServer }))
      )
  }
}

const checkSchema = <A>(name: string, schema: Schema.Codec<A, unknown>): void => {
  const fault = Check.schemaFault(schema)
  if (fault !== undefined) throw new TypeError(`${name} can't go over the wire ${fault}`)
}
