/**
 * mqtt.js and mosquitto over WebSocket at QoS 1: the broker is a process of its own between the two, started here.
 * The server's process is one MQTT client, each connection another. A fast sender waits for the broker's acks.
 */
import mqtt from "mqtt"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Receive, Server } from "../harness/Peer.ts"
import { startMosquitto } from "../services/mosquitto.ts"
import { at, InFlight, maxInFlight, maxInFlightStored } from "./sockets.ts"

/** Whose messages a topic carries; one topic a connection and direction. */
type Direction = "toClient" | "toServer"

const topicOf = (direction: Direction, connection: number): string => `${direction}/${connection}`
const everybody = "everybody"

/** Whether the broker writes to disk, and knows its clients again; and how much may be without an answer. */
interface Kind {
  readonly persistence: boolean
  readonly maxInFlight: number
}

const makePeer = ({ maxInFlight, persistence }: Kind): Peer => {
  const open = (port: number, clientId: string): Promise<mqtt.MqttClient> =>
    mqtt.connectAsync(`ws://127.0.0.1:${port}`, persistence ? { clean: false, clientId } : {})

  const listen = async ({ receive }: ListenOptions): Promise<Server> => {
    const port = await startMosquitto({ persistence })
    const client = await open(port, "server")
    receiving(client, receive, (topic) => Number(topic.slice("toServer/".length)))
    await client.subscribeAsync("toServer/+", { qos: 1 })
    return {
      ...publishing(() => client, "toClient", maxInFlight),
      port,
      broadcast: async (message) => {
        await client.publishAsync(everybody, JSON.stringify(message), { qos: 1 })
      },
      cut: () => {
        throw new Error("the sockets are the broker's")
      },
      close: () => client.endAsync(true)
    }
  }

  const connect = async ({ connections, opened, port, receive }: ConnectOptions): Promise<Clients> => {
    const clients = await inParallel(connections, async (connection) => {
      const client = await open(port, `client-${connection}`)
      receiving(client, receive, () => connection)
      await client.subscribeAsync([topicOf("toClient", connection), everybody], { qos: 1 })
      opened?.(connection)
      return client
    })
    return {
      ...publishing((connection) => at(clients, connection), "toServer", maxInFlight),
      close: async () => {
        await Promise.all(clients.map((client) => client.endAsync(true)))
      }
    }
  }

  return { listen, connect }
}

const receiving = (client: mqtt.MqttClient, receive: Receive, connectionOf: (topic: string) => number): void => {
  client.on("message", (topic, payload) => receive(connectionOf(topic), JSON.parse(payload.toString())))
}

const publishing = (
  clientOf: (connection: number) => mqtt.MqttClient,
  direction: Direction,
  maxInFlight: number
) => {
  const inFlight = new InFlight(maxInFlight)
  const done = (error?: Error): void => {
    if (error) throw error
    inFlight.done()
  }
  const send = (connection: number, message: Message): Promise<void> | undefined => {
    clientOf(connection).publish(topicOf(direction, connection), JSON.stringify(message), { qos: 1 }, done)
    return inFlight.begin()
  }
  return {
    sendMany: async ({ connections, count, make }: Plan): Promise<void> => {
      for (let n = 0; n < count; n++) {
        const pause = send(n % connections, make(n))
        if (pause !== undefined) await pause
      }
    },
    send: (connection: number, message: Message): void => void send(connection, message)
  }
}

export const peer = makePeer({ persistence: false, maxInFlight })
export const durable = makePeer({ persistence: true, maxInFlight: maxInFlightStored })
