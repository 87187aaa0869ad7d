/** A `ws` socket that is paused gives nothing, whatever it had read by then. */
import { assert, describe, it } from "@effect/vitest"
import { once } from "node:events"
import { WebSocket, WebSocketServer } from "ws"
import { WsConnection } from "../../src/internal/transports/wsConnection.ts"

/** Both ends of a connection on this machine: the server's as a connection, the client's by hand. */
const connect = async () => {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 })
  await once(server, "listening")
  const address = server.address()
  const port = typeof address === "object" ? address?.port : undefined
  const accepted = once(server, "connection")
  const client = new WebSocket(`ws://127.0.0.1:${port}`)
  const [ws] = await accepted as [WebSocket]
  if (client.readyState !== client.OPEN) await once(client, "open")
  const connection = new WsConnection(ws, { url: "/", headers: {}, remoteAddress: undefined })
  const events: Array<string> = []
  let wake = () => {}
  const pauses = new Set<string>()
  const note = (event: string) => {
    events.push(event)
    if (pauses.has(event)) connection.pause()
    wake()
  }
  connection.open({
    frame: (data, bytes) => note(typeof data === "string" ? `${data}/${bytes}` : `${data.length} bytes`),
    drained: () => {},
    alive: () => note("alive"),
    closed: (code) => note(`closed ${code}`)
  })
  return {
    client,
    connection,
    ws,
    events,
    pauses,
    /** Frames that leave together, so that they come in one piece. */
    burst: (frames: ReadonlyArray<string>) => {
      const socket = Reflect.get(client, "_socket") as { cork: () => void; uncork: () => void }
      socket.cork()
      for (const frame of frames) client.send(frame)
      socket.uncork()
    },
    until: async (condition: () => boolean) => {
      while (!condition()) await new Promise<void>((resolve) => void (wake = resolve))
    },
    [Symbol.asyncDispose]: async () => {
      client.terminate()
      ws.terminate()
      server.close()
      await once(server, "close")
    }
  }
}

const numbers = (count: number) => Array.from({ length: count }, (_, n) => String(n))

describe("a connection that is paused", () => {
  it("in the midst of what came together gives the rest when it is read again, in order", async () => {
    await using pair = await connect()
    const { burst, connection, events, pauses, until } = pair
    for (const n of ["0/1", "3/1", "99/2"]) pauses.add(n)
    burst([...numbers(100), "é"])
    await until(() => events.length === 1)
    connection.resume()
    await until(() => events.length === 4)
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepStrictEqual(events, ["0/1", "1/1", "2/1", "3/1"])
    connection.resume()
    await until(() => events.length === 100)
    connection.resume()
    await until(() => events.length === 101)
    assert.strictEqual(events[100], "é/2")
    pair.client.send("later")
    await until(() => events.length === 102)
  })

  it("gives what came before the end before the end", async () => {
    await using pair = await connect()
    pair.pauses.add("0/1")
    pair.burst(numbers(10))
    await pair.until(() => pair.events.length === 1)
    pair.client.close(1000)
    pair.connection.resume()
    await pair.until(() => pair.events.at(-1) === "closed 1000")
    assert.deepStrictEqual(pair.events, [...numbers(10).map((n) => `${n}/1`), "closed 1000"])
  })

  it("gives nothing more once it is closed from here, and what it had to its next owner", async () => {
    await using closed = await connect()
    closed.pauses.add("0/1")
    closed.burst(numbers(10))
    await closed.until(() => closed.events.length === 1)
    closed.connection.close(4000, "")
    closed.client.send("too late")
    await closed.until(() => closed.events.length > 1)
    assert.deepStrictEqual(closed.events, ["0/1", "closed 4000"])

    await using given = await connect()
    given.pauses.add("0/1")
    given.burst(numbers(10))
    await given.until(() => given.events.length === 1)
    const ws = given.connection.release()
    const got: Array<string> = []
    await new Promise<void>((resolve) =>
      ws.on("message", (data) => {
        if (got.push(String(data)) === 9) resolve()
      })
    )
    assert.deepStrictEqual(got, numbers(10).slice(1))
  })

  it("tells of pings and pongs of the WebSocket layer", async () => {
    await using pair = await connect()
    pair.client.ping()
    pair.client.pong()
    await pair.until(() => pair.events.length === 2)
    pair.connection.ping()
    await pair.until(() => pair.events.length === 3)
    assert.deepStrictEqual(pair.events, ["alive", "alive", "alive"])
  })
})
