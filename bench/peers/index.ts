/** The systems under measurement by name, loaded by name: one child process holds one of them. */
import type { Peer } from "../harness/Peer.ts"

export interface Description {
  readonly title: string
  /** The module in this folder. */
  readonly module: string
  /** Its export; default `peer`. */
  readonly export?: string | undefined
  /**
   * Part of a throughput workload's messages that this one is given: slow systems would take minutes. Rates are what
   * is compared. Default 1.
   */
  readonly share?: number | undefined
  /** A program that must be on the PATH, and how to get it. */
  readonly needs?: { readonly program: string; readonly hint: string } | undefined
}

const needs = {
  mosquitto: { program: "mosquitto", hint: "apt-get install mosquitto" },
  nats: { program: "nats-server", hint: "apt-get install nats-server" },
  postgres: { program: "initdb", hint: "apt-get install postgresql" },
  redis: { program: "redis-server", hint: "apt-get install redis-server" }
}

const descriptions = {
  "ws": { title: "ws, a frame a message, no ack", module: "ws" },
  "ws-batch": { title: "ws, arrays of 32, no ack", module: "ws-batch" },
  "effect-socket": { title: "Effect Socket, no ack", module: "effect-socket" },
  "socketio": { title: "Socket.IO", module: "socketio", share: 0.5 },
  "socketio-recovery": { title: "Socket.IO, state recovery", module: "socketio", export: "recovery", share: 0.5 },
  "socketio-acks": { title: "Socket.IO, acks", module: "socketio", export: "acks", share: 0.5 },
  "mqtt": {
    title: "mqtt.js, mosquitto, QoS 1",
    module: "mqtt",
    share: 0.2,
    needs: needs.mosquitto
  },
  "resilient": { title: "resilient-websocket", module: "resilient" },
  "resilient-batch": { title: "resilient-websocket, sendAll of 32", module: "resilient", export: "batch" },
  "router": { title: "resilient-websocket on HttpRouter", module: "resilient", export: "router" },
  "promise": { title: "resilient-websocket/promise", module: "promise" },
  "sqlite": { title: "SqliteStore, synchronous normal", module: "resilient", export: "sqlite" },
  "sqlite-batch": { title: "SqliteStore, normal, sendAll of 64", module: "resilient", export: "sqliteBatch" },
  "sqlite-full": { title: "SqliteStore, synchronous full", module: "resilient", export: "sqliteFull" },
  "postgres": { title: "PostgresStore, fsync on", module: "resilient", export: "postgres", needs: needs.postgres },
  "postgres-batch": {
    title: "PostgresStore, fsync on, sendAll of 64",
    module: "resilient",
    export: "postgresBatch",
    needs: needs.postgres
  },
  "redis": { title: "RedisStore, everysec", module: "resilient", export: "redis", needs: needs.redis },
  "redis-batch": {
    title: "RedisStore, everysec, sendAll of 64",
    module: "resilient",
    export: "redisBatch",
    needs: needs.redis
  },
  "redis-always": { title: "RedisStore, always", module: "resilient", export: "redisAlways", needs: needs.redis },
  "mqtt-durable": {
    title: "mqtt.js, mosquitto, QoS 1, persistence",
    module: "mqtt",
    export: "durable",
    share: 0.5,
    needs: needs.mosquitto
  },
  "nats": { title: "NATS JetStream, file storage", module: "nats", share: 0.5, needs: needs.nats }
} as const satisfies Record<string, Description>

export type PeerName = keyof typeof descriptions

export const peerNames = Object.keys(descriptions) as ReadonlyArray<PeerName> // the keys are what they are

/** Those that keep what they have on a disk, or in a database: they have a workload of their own. */
export const storedPeers: ReadonlyArray<PeerName> = [
  "sqlite",
  "sqlite-batch",
  "sqlite-full",
  "postgres",
  "postgres-batch",
  "redis",
  "redis-batch",
  "redis-always",
  "mqtt-durable",
  "nats"
]

export const describe = (name: PeerName): Description => descriptions[name]

/** By computed address, so that the types of packages only installed in `bench/` stay out of the root's check. */
export const load = async (name: PeerName): Promise<Peer> => {
  const { export: exported = "peer", module } = describe(name)
  const exports: Readonly<Record<string, Peer>> = await import(new URL(`./${module}.ts`, import.meta.url).href)
  const peer = exports[exported]
  if (peer === undefined) throw new Error(`peers/${module}.ts exports no ${exported}`)
  return peer
}
