/**
 * Strangers who reset their TCP connections, in every state of an upgrade and a handshake. Each number of RESETS is spread
 * over states and servers; by default 2,000, and 10,000 of all tests.
 */
import { assert, it, onTestFinished } from "@effect/vitest"
import { Context, Effect, Layer } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { readdirSync } from "node:fs"
import { connect, type Socket } from "node:net"
import { createInterface } from "node:readline"
import { MemoryStore } from "../src/index.ts"
import { NodeTransport } from "../src/node/index.ts"
import { amount } from "./support/everything.ts"
import { Numbers } from "./support/resetContract.ts"
import { programPath } from "./support/sharedByRun.ts"

const resets = Number(process.env["RESETS"] ?? amount(10_000, 2_000))
const clients = 50
const messages = 40

const request = (path: string, ...headers: ReadonlyArray<string>): string =>
  [
    `GET ${path} HTTP/1.1`,
    "Host: shop.example",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: resilient.v1",
    ...headers,
    "",
    ""
  ].join("\r\n")

/** Masked with zeros. */
const frame = (text: string): Buffer => {
  const data = Buffer.from(text)
  return Buffer.concat([Buffer.from([0x81, 0xfe, data.length >> 8, data.length & 255, 0, 0, 0, 0]), data])
}

const hello = frame(JSON.stringify({
  t: "hello",
  version: 1,
  instance: "stranger",
  out: { epoch: "stranger", acked: 0, last: 0 },
  in: { epoch: null, received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } },
  window: { messages: 1_024, bytes: 4_194_304 },
  maxPayload: 1_048_576
}))

const live = request("/live")

/** What a stranger writes, and what it waits for before the reset: nothing, so many turns, or an answer. */
interface State {
  readonly name: string
  readonly writes: ReadonlyArray<{ readonly after?: RegExp; readonly data: string | Buffer }>
  readonly until?: RegExp
}

const states: ReadonlyArray<State> = [
  { name: "before the first byte", writes: [] },
  { name: "in the headers", writes: [{ data: live.slice(0, 60) }] },
  { name: "behind the request", writes: [{ data: live }] },
  { name: "at the upgrade", writes: [{ data: live }], until: / 101 | 503 / },
  { name: "behind a refused path", writes: [{ data: request("/nobodys") }] },
  { name: "at the refusal of a path", writes: [{ data: request("/nobodys") }], until: / 404 | 503 / },
  { name: "behind a refused origin", writes: [{ data: request("/live", "Origin: https://other.example") }] },
  {
    name: "at the refusal of an origin",
    writes: [{ data: request("/live", "Origin: https://other.example") }],
    until: / 403 | 503 /
  },
  { name: "behind a bad key", writes: [{ data: live.replace("Key: d", "Key: ") }] },
  { name: "behind what is no upgrade", writes: [{ data: "GET /live HTTP/1.1\r\nHost: x\r\n\r\n" }] },
  { name: "behind what is no HTTP", writes: [{ data: "\u0000\u0001\r\n\r\n" }] },
  { name: "in a body", writes: [{ data: "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf" }] },
  { name: "behind CONNECT", writes: [{ data: "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n" }] },
  { name: "on another's path", writes: [{ data: request("/foreign") }] },
  { name: "with the hello in one piece", writes: [{ data: Buffer.concat([Buffer.from(live), hello]) }] },
  { name: "in the hello", writes: [{ data: live }, { after: / 101 | 503 /, data: hello.subarray(0, 100) }] },
  { name: "before the welcome", writes: [{ data: live }, { after: / 101 | 503 /, data: hello }] },
  { name: "at the welcome", writes: [{ data: live }, { after: / 101 | 503 /, data: hello }], until: /welcome| 503 / },
  { name: "behind nonsense", writes: [{ data: live }, { after: / 101 | 503 /, data: "\u00ff\u00ff\u00ff" }] }
]

const sees = (socket: Socket, text: { value: string }, pattern: RegExp): Promise<void> =>
  new Promise((resolve) => {
    const look = () => {
      if (!pattern.test(text.value) && !socket.destroyed && !socket.readableEnded) return
      socket.off("data", look).off("close", look).off("end", look)
      resolve()
    }
    socket.on("data", look).on("close", look).on("end", look)
    look()
  })

const reset = async (port: number, { until, writes }: State, turns: number): Promise<void> => {
  const socket = connect(port, "127.0.0.1")
  const text = { value: "" }
  socket.on("error", () => {})
  socket.on("data", (data) => void (text.value += data.toString("latin1")))
  await once(socket, "connect")
  for (const { after, data } of writes) {
    if (after !== undefined) await sees(socket, text, after)
    if (!socket.destroyed) socket.write(data)
  }
  if (until !== undefined) await sees(socket, text, until)
  for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve))
  socket.resetAndDestroy()
}

interface Ports {
  readonly own: number
  readonly shared: number
  readonly beside: number
  readonly full: number
}

const start = async (): Promise<{ readonly child: ChildProcess; readonly ports: Ports }> => {
  const child = spawn(process.execPath, [await programPath("resetServer")], {
    stdio: ["pipe", "pipe", "inherit"]
  })
  onTestFinished(() => void child.kill("SIGKILL"))
  const [line] = await once(createInterface({ input: child.stdout }), "line")
  return { child, ports: JSON.parse(String(line)) }
}

const descriptors = ({ pid }: ChildProcess): number => readdirSync(`/proc/${pid}/fd`).length

/** A client whose messages come back, each once and in order. */
const honest = Effect.fnUntraced(function*(port: number) {
  const answers: Array<number> = []
  const services = yield* Layer.build(
    Numbers.layerClient({
      url: `ws://127.0.0.1:${port}/live`,
      onMessage: (number) => Effect.sync(() => void answers.push(number))
    }).pipe(Layer.provide([MemoryStore.layer(), NodeTransport.layerClient]))
  )
  const client = Context.get(services, Numbers.Client)
  yield* client.awaitConnected()
  let sent = 0
  const send = Effect.suspend(() => client.send(++sent))
  return { answers, send, sent: () => sent }
})

it.live(`${resets} resets in every state end nothing and leave nothing`, () =>
  Effect.gen(function*() {
    const { child, ports } = yield* Effect.promise(start)
    const fill = connect(ports.full, "127.0.0.1")
    fill.on("error", () => {})
    onTestFinished(() => void fill.destroy())
    yield* Effect.promise(() => once(fill, "connect"))
    fill.write(live)
    yield* Effect.promise(() => once(fill, "data"))
    const open = [ports.own, ports.shared, ports.beside]
    const all = yield* Effect.forEach(
      Array.from({ length: clients }, (_, i) => open[i % open.length] ?? 0),
      honest,
      { concurrency: clients }
    )
    const before = descriptors(child)

    const targets = Object.values(ports)
    const every = Math.ceil(resets / messages)
    let next = 0
    const stranger = async (): Promise<void> => {
      for (let i = next++; i < resets; i = next++) {
        const state = states[i % states.length]
        const port = targets[Math.floor(i / states.length) % targets.length]
        if (state === undefined || port === undefined) return
        await reset(port, state, Math.floor(i / (states.length * targets.length)) % 4)
        if (child.exitCode !== null) assert.fail(`the server ended at a reset ${state.name}`)
        if (i % every === 0) await Effect.runPromise(Effect.forEach(all, ({ send }) => send, { discard: true }))
      }
    }
    yield* Effect.promise(() => Promise.all(Array.from({ length: 32 }, stranger)))

    assert.isNull(child.exitCode)
    for (const { answers, sent } of all) {
      assert.isAtLeast(sent(), messages - 1)
      while (answers.length < sent()) yield* Effect.sleep("10 millis")
      assert.deepStrictEqual(answers, Array.from({ length: sent() }, (_, i) => i + 1))
    }
    while (descriptors(child) > before) yield* Effect.sleep("50 millis")
    child.stdin?.end()
    assert.deepStrictEqual(yield* Effect.promise(() => once(child, "exit")), [0, null])
  }).pipe(Effect.scoped))
