/**
 * A child process of test/attack.test.ts and bench/attack.ts: attacks a port on raw sockets, in the way and for the time
 * that each line it is given says, and then says what it has done.
 */
import { randomBytes } from "node:crypto"
import { connect, type Socket } from "node:net"
import { createInterface } from "node:readline"

interface Order {
  readonly kind: Kind
  readonly port: number
  readonly connections: number
  readonly millis: number
}

const megabyte = 1_000_000
const large = "z".repeat(megabyte)
/** A megabyte of text that is 22 MB of objects. */
const bomb = `[${Array.from({ length: 340_000 }, () => "{}").join(",")}]`

/** A masked text frame, as a client sends it, with a mask of zeros. */
const frame = (text: string): Buffer => {
  const payload = Buffer.from(text)
  return Buffer.concat([head(payload.length), payload])
}

const head = (length: number, opcode = 1): Buffer => {
  if (length < 126) return Buffer.from([0x80 | opcode, 0x80 | length, 0, 0, 0, 0])
  const long = length >= 65_536
  const bytes = Buffer.alloc(long ? 14 : 8)
  bytes[0] = 0x80 | opcode
  bytes[1] = 0x80 | (long ? 127 : 126)
  if (long) bytes.writeUInt32BE(length, 6)
  else bytes.writeUInt16BE(length, 2)
  return bytes
}

const upgrade = (path: string, protocol: string): string =>
  `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
  `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n` +
  (protocol === "" ? "" : `Sec-WebSocket-Protocol: ${protocol}\r\n`)

const hello = (): string =>
  JSON.stringify({
    t: "hello",
    version: 1,
    instance: randomBytes(8).toString("hex"),
    out: { epoch: randomBytes(8).toString("hex"), acked: 0, last: 0 },
    in: { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } },
    window: { messages: 100_000, bytes: 100 * megabyte },
    maxPayload: megabyte
  })

/** What a connection sends after its upgrade (and its hello), as often as the socket takes it; undefined for no more. */
type Next = (n: number) => Buffer | undefined

interface Attack {
  readonly protocol: "" | "resilient.v1"
  readonly next: () => Next
  /** Does not read. */
  readonly isDeaf?: boolean
}

const once = (text: string): () => Next => {
  const bytes = frame(text)
  return () => () => bytes
}

const many = (text: string, count: number): () => Next => {
  const bytes = Buffer.concat(Array.from({ length: count }, () => frame(text)))
  return () => () => bytes
}

const reliable = (payload: string, count = 1) => (): Next => (n) =>
  frame(`{"t":"batch","o":${1 + (n - 1) * count},"m":[${Array.from({ length: count }, () => payload).join(",")}]}`)

const webSocket = {
  "plain, large": { protocol: "", next: once(`"${large}"`) },
  "plain, bulky": { protocol: "", next: once(bomb) },
  "plain, tiny": { protocol: "", next: many("1", 1_000) },
  "plain, deaf": { protocol: "", next: many("1", 10), isDeaf: true },
  "reliable, large": { protocol: "resilient.v1", next: reliable(`"${large}"`) },
  "reliable, bulky": { protocol: "resilient.v1", next: reliable(bomb) },
  "reliable, tiny": { protocol: "resilient.v1", next: reliable("1", 500) },
  "reliable, deaf": { protocol: "resilient.v1", next: reliable("1", 10), isDeaf: true },
  "reliable, poison": { protocol: "resilient.v1", next: reliable(`{"poison":"${large}"}`) },
  "volatile, large": { protocol: "resilient.v1", next: once(`{"t":"volatile","m":["${large}"]}`) },
  "volatile, bulky": { protocol: "resilient.v1", next: once(`{"t":"volatile","m":[${bomb}]}`) },
  "gaps": {
    protocol: "resilient.v1",
    next: () => (n) =>
      Buffer.concat(Array.from({ length: 500 }, (_, i) => {
        const offset = (n - 1) * 500 + i + 1
        return frame(`{"t":"gap","o":${offset},"e":${offset},"reason":"${i % 2 === 0 ? "expired" : "overflow"}"}`)
      }))
  },
  "pings": { protocol: "resilient.v1", next: many(`{"t":"ping"}`, 1_000) },
  "pings, deaf": { protocol: "resilient.v1", next: many(`{"t":"ping"}`, 1_000), isDeaf: true },
  "pings of the layer": {
    protocol: "",
    next: () => () => Buffer.concat(Array.from({ length: 1_000 }, () => head(0, 9)))
  },
  "renewed tokens": { protocol: "resilient.v1", next: many(`{"t":"auth","auth":"token"}`, 500) },
  "trickling": {
    protocol: "",
    next: () => (n) => n === 1 ? Buffer.concat([head(megabyte), Buffer.alloc(megabyte - 1_000, "z")]) : undefined
  }
} satisfies Record<string, Attack>

const others = ["half an upgrade", "refused"] as const

/** @public */
export type Kind = keyof typeof webSocket | (typeof others)[number]

/** All ways to attack. */
export const kinds = [...Object.keys(webSocket), ...others] as ReadonlyArray<Kind>

const attack = (
  { connections, kind, millis, port }: Order
): Promise<{ readonly bytes: number; readonly dials: number }> =>
  new Promise((resolve) => {
    let bytes = 0
    let dials = 0
    let isOver = false
    let waiting = connections
    let begun = (): void => {}
    const open = new Set<Socket>()

    const flood = (socket: Socket, next: Next): void => {
      let n = 0
      const pump = (): void => {
        if (isOver || socket.destroyed) return
        const data = next(++n)
        if (data === undefined) return
        bytes += data.length
        if (socket.write(data)) setImmediate(pump)
        else socket.once("drain", pump)
      }
      pump()
    }

    const dial = (): void => {
      if (isOver) return
      dials++
      const socket = connect(port, "127.0.0.1")
      open.add(socket)
      socket.on("error", () => {})
      socket.on("close", () => {
        open.delete(socket)
        setTimeout(dial, 20)
      })
      socket.once("connect", () => {
        if (kind === "half an upgrade") {
          begun()
          return void socket.write(upgrade("/ws", ""))
        }
        if (kind === "refused") {
          begun()
          return void socket.write(`${upgrade("/elsewhere", "")}\r\n`)
        }
        const { isDeaf = false, next, protocol }: Attack = webSocket[kind]
        let got = ""
        let step = 0
        const heard = (data: Buffer): void => {
          if (step === 2) return
          got += data.toString("latin1")
          if (step === 0 && got.includes("\r\n\r\n")) {
            step = 1
            got = got.slice(got.indexOf("\r\n\r\n") + 4)
            if (protocol !== "") socket.write(frame(hello()))
          }
          if (step === 0 || (protocol !== "" && !got.includes(`"welcome"`))) return
          step = 2
          if (isDeaf) {
            socket.off("data", heard)
            socket.pause()
          }
          begun()
          flood(socket, next())
        }
        socket.on("data", heard)
        socket.write(`${upgrade("/ws", protocol)}\r\n`)
      })
    }

    const end = (): void => {
      isOver = true
      for (const socket of open) socket.destroy()
      resolve({ bytes, dials })
    }
    for (let i = 0; i < connections; i++) dial()
    // Where the machine is busy, it takes a while until all are at it.
    const latest = setTimeout(end, 5_000)
    begun = () => {
      if (--waiting > 0) return
      clearTimeout(latest)
      setTimeout(end, millis)
    }
  })

if (import.meta.main) {
  for await (const line of createInterface({ input: process.stdin })) {
    const order: Order = JSON.parse(line)
    console.log(JSON.stringify(await attack(order)))
  }
  process.exit(0)
}
