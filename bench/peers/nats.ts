/**
 * NATS JetStream with file storage: nats-server is a process of its own between the two, started here. A stream from
 * which acked messages go, a subject and a consumer for each connection, an ack for each message. The server's process
 * publishes with so many acks in flight. Only server → client.
 */
import { AckPolicy, jetstream, jetstreamManager, RetentionPolicy, StorageType } from "@nats-io/jetstream"
import { connect as dial, type NatsConnection } from "@nats-io/transport-node"
import { inParallel } from "../harness/parallel.ts"
import type { Clients, ConnectOptions, Message, Peer, Plan, Server } from "../harness/Peer.ts"
import { startNats } from "../services/nats.ts"
import { InFlight, maxInFlight, maxInFlightStored } from "./sockets.ts"

const stream = "toClient"
const subjectOf = (connection: number): string => `${stream}.${connection}`
const consumerOf = (connection: number): string => `client-${connection}`

const open = (port: number): Promise<NatsConnection> => dial({ servers: `127.0.0.1:${port}` })

const onlyToClient = (): never => {
  throw new Error("only messages from the server to its clients, one by one, are measured with NATS")
}

const listen = async (): Promise<Server> => {
  const port = await startNats()
  const connection = await open(port)
  const manager = await jetstreamManager(connection)
  await manager.streams.add({
    name: stream,
    subjects: [`${stream}.>`],
    storage: StorageType.File,
    retention: RetentionPolicy.Workqueue
  })
  const client = jetstream(connection)
  const inFlight = new InFlight(maxInFlightStored)
  const publish = async (connection: number, message: Message): Promise<void> => {
    // A failure is an unhandled rejection, which ends the process and the measurement.
    await client.publish(subjectOf(connection), JSON.stringify(message))
    inFlight.done()
  }
  return {
    port,
    sendMany: async ({ connections, count, make }: Plan): Promise<void> => {
      for (let n = 0; n < count; n++) {
        void publish(n % connections, make(n))
        const pause = inFlight.begin()
        if (pause !== undefined) await pause
      }
    },
    send: (connection, message) => {
      void publish(connection, message)
      void inFlight.begin()
    },
    broadcast: onlyToClient,
    cut: onlyToClient,
    close: () => connection.close()
  }
}

const connect = async ({ connections, opened, port, receive }: ConnectOptions): Promise<Clients> => {
  const clients = await inParallel(connections, async (number) => {
    const connection = await open(port)
    const manager = await jetstreamManager(connection)
    await manager.consumers.add(stream, {
      durable_name: consumerOf(number),
      filter_subject: subjectOf(number),
      ack_policy: AckPolicy.Explicit,
      max_ack_pending: maxInFlight
    })
    const consumer = await jetstream(connection).consumers.get(stream, consumerOf(number))
    await consumer.consume({
      max_messages: maxInFlight,
      callback: (message) => {
        receive(number, JSON.parse(message.string()))
        message.ack()
      }
    })
    opened?.(number)
    return connection
  })
  return {
    sendMany: onlyToClient,
    send: onlyToClient,
    close: async () => {
      await Promise.all(clients.map((client) => client.close()))
    }
  }
}

export const peer: Peer = { listen, connect }
