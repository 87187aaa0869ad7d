/** A `ws` socket that is paused gives nothing, whatever it had read by then. */
import { assert, describe, it } from "@effect/vitest"
import { once } from "node:events"
import { Socket } from "node:net"
import { WebSocket, WebSocketServer } from "ws"
import { WsConnection } from "../../src/internal/transports/wsConnection.ts"

/** Both ends of a connection on this machine: the server's as a connection, the client's by hand. */
const connect = async (watch: (connection: WsConnection) => void = () => {}) => {
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
  watch(connection)
  let holdsBack = false
  connection.open({
    incoming: (bytes) => {
      note(`${bytes} bytes come`)
      if (holdsBack) connection.pause()
    },
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
    /** From now on what comes in large pieces has to wait. */
    holdBack: (isOn: boolean) => void (holdsBack = isOn),
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

const inTurns = (connection: WsConnection): void => void connection.inTurns()

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

  it("is not read any more when it is gone, and 128 have gone after it", async () => {
    const pairs = await Promise.all(Array.from({ length: 130 }, () => connect()))
    for (const pair of pairs) {
      pair.pauses.add("0/1")
      pair.burst(numbers(10))
      await pair.until(() => pair.events.length === 1)
      const closed = once(pair.ws, "close")
      pair.ws.terminate()
      await closed
    }
    for (const { until, events } of pairs.slice(0, 2)) await until(() => events.at(-1) === "closed 1006")
    for (const { connection, events } of pairs.slice(2)) {
      assert.deepStrictEqual(events, ["0/1"])
      connection.resume()
    }
    for (const { until, events } of pairs.slice(2)) await until(() => events.length === 11)
    for (const pair of pairs) await pair[Symbol.asyncDispose]()
    assert.deepStrictEqual(pairs[2]?.events, [...numbers(10).map((n) => `${n}/1`), "closed 1006"])
    assert.deepStrictEqual(pairs[1]?.events, ["0/1", "closed 1006"])
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

describe("a connection that takes in pieces in turns", () => {
  /** Ten frames in one piece of some 6 kB. */
  const frames = Array.from({ length: 10 }, (_, n) => String(n).repeat(600))
  const piece = `${10 * (600 + 8)} bytes come`

  it("gives nothing of a piece that has to wait, and then all of it, before what comes later", async () => {
    await using pair = await connect(inTurns)
    const { burst, connection, events, holdBack, until } = pair
    holdBack(true)
    burst(frames)
    await until(() => events.length === 1)
    pair.client.send("later")
    await new Promise((resolve) => setTimeout(resolve, 50))
    assert.deepStrictEqual(events, [piece])
    holdBack(false)
    connection.resume()
    await until(() => events.length === 12)
    assert.deepStrictEqual(events.slice(1), [...frames.map((frame) => `${frame}/600`), "later/5"])
  })

  it("hears the close frame behind a piece that has to wait, and says nothing of the piece, once it is closed", async () => {
    await using pair = await connect(inTurns)
    pair.holdBack(true)
    pair.burst(frames)
    await pair.until(() => pair.events.length === 1)
    pair.connection.close(4000, "")
    await pair.until(() => pair.events.length === 2)
    assert.deepStrictEqual(pair.events, [piece, "closed 4000"])
  })

  it("gives a piece that has to wait to its next owner", async () => {
    await using pair = await connect(inTurns)
    pair.holdBack(true)
    pair.burst(frames)
    await pair.until(() => pair.events.length === 1)
    const got: Array<string> = []
    const ws = pair.connection.release()
    await new Promise<void>((resolve) =>
      ws.on("message", (data) => {
        if (got.push(String(data)) === 11) resolve()
        if (got.length === 10) pair.client.send("later")
      })
    )
    assert.deepStrictEqual(got, [...frames, "later"])
  })

  it("gives a piece that has to wait also when the other side has ended behind it, without a word", async () => {
    await using pair = await connect(inTurns)
    pair.holdBack(true)
    pair.burst(frames)
    await pair.until(() => pair.events.length === 1)
    const stream: unknown = Reflect.get(pair.client, "_socket")
    assert(stream instanceof Socket)
    stream.end()
    await new Promise((resolve) => setTimeout(resolve, 50))
    assert.deepStrictEqual(pair.events, [piece])
    pair.connection.resume()
    await pair.until(() => pair.events.length === 12)
    assert.deepStrictEqual(pair.events.slice(1), [...frames.map((frame) => `${frame}/600`), "closed 1006"])
  })

  it("takes in nothing more of a socket that was reset when it was not read", async () => {
    await using pair = await connect(inTurns)
    pair.pauses.add(`${frames[0]}/600`)
    pair.burst(frames)
    await pair.until(() => pair.events.length === 2)
    pair.connection.resume()
    await pair.until(() => pair.events.length === 11)
    pair.connection.pause()
    const stream: unknown = Reflect.get(pair.ws, "_socket")
    assert(stream instanceof Socket)
    pair.burst(frames)
    while (stream.readableLength === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    stream.destroy(new Error("ECONNRESET"))
    await pair.until(() => pair.events.length === 12)
    assert.strictEqual(pair.events[11], "closed 1006")
  })
})
