/**
 * mqtt.js and mosquitto over WebSocket at QoS 1: the broker is a process of its own between the two, started here.
 * The server's process is one MQTT client, each connection another. A fast sender waits for the broker's acks.
 */
import mqtt from "mqtt"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { type AddressInfo, connect as dial, createServer } from "node:net"
import { tmpdir, userInfo } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { beforeEnd, own } from "../harness/endings.ts"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, ListenOptions, Message, Peer, Plan, Receive, Server } from "../harness/Peer.ts"
import { at, InFlight } from "./sockets.ts"

/** Whose messages a topic carries; one topic a connection and direction. */
type Direction = "toClient" | "toServer"

const topicOf = (direction: Direction, connection: number): string => `${direction}/${connection}`
const everybody = "everybody"

/** How often the broker is dialled, every 20 ms, before it is given up. */
const brokerAttempts = 250

/** Its port; it ends with this process. */
const startBroker = async (): Promise<number> => {
  const port = await freePort()
  const folder = await mkdtemp(join(tmpdir(), "resilient-websocket-bench-"))
  const file = join(folder, "mosquitto.conf")
  // The second listener is for mosquitto 2.0, which ends when it has none but WebSockets. The limits are off, as it would
  // drop what a fast sender sends.
  await writeFile(
    file,
    [
      `listener ${port} 127.0.0.1`,
      "protocol websockets",
      `listener 0 ${join(folder, "plain.sock")}`,
      `user ${userInfo().username}`,
      "allow_anonymous true",
      "persistence false",
      "set_tcp_nodelay true",
      "max_inflight_messages 0",
      "max_queued_messages 0",
      "log_dest stderr",
      "log_type error",
      ""
    ].join("\n")
  )
  const broker = spawn("mosquitto", ["-c", file], { stdio: ["ignore", "ignore", "pipe"] })
  let complaints = ""
  broker.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaints = (complaints + text).slice(-1_000)
  })
  const exited = once(broker, "exit")
  if (broker.pid !== undefined) own(broker.pid)
  beforeEnd(async () => {
    broker.kill()
    await exited
    await rm(folder, { recursive: true })
  })
  await Promise.race([
    listening(port),
    exited.then(([code]) => Promise.reject(new Error(`mosquitto ended with code ${code}: ${complaints}`)))
  ])
  return port
}

const freePort = async (): Promise<number> => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address() as AddressInfo // it listens on TCP
  server.close()
  await once(server, "close")
  return port
}

const listening = async (port: number): Promise<void> => {
  for (let attempt = 0; attempt < brokerAttempts; attempt++) {
    const socket = dial(port, "127.0.0.1")
    try {
      await once(socket, "connect")
      return
    } catch {
      await sleep(20)
    } finally {
      socket.destroy()
    }
  }
  throw new Error(`mosquitto does not listen on port ${port}`)
}

const listen = async ({ receive }: ListenOptions): Promise<Server> => {
  const port = await startBroker()
  const client = await open(port)
  receiving(client, receive, (topic) => Number(topic.slice("toServer/".length)))
  await client.subscribeAsync("toServer/+", { qos: 1 })
  const publish = publishing(() => client, "toClient")
  return {
    ...publish,
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
    const client = await open(port)
    receiving(client, receive, () => connection)
    await client.subscribeAsync([topicOf("toClient", connection), everybody], { qos: 1 })
    opened?.(connection)
    return client
  })
  return {
    ...publishing((connection) => at(clients, connection), "toServer"),
    close: async () => {
      await Promise.all(clients.map((client) => client.endAsync(true)))
    }
  }
}

const open = (port: number): Promise<mqtt.MqttClient> => mqtt.connectAsync(`ws://127.0.0.1:${port}`)

const receiving = (client: mqtt.MqttClient, receive: Receive, connectionOf: (topic: string) => number): void => {
  client.on("message", (topic, payload) => receive(connectionOf(topic), JSON.parse(payload.toString())))
}

const publishing = (clientOf: (connection: number) => mqtt.MqttClient, direction: Direction) => {
  const inFlight = new InFlight()
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

export const peer: Peer = { listen, connect }
