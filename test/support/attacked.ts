/** A server that is attacked, its attacker, each in a process of its own, and honest clients in this one. */
import { Context, Effect, Layer, Redacted, type Scope } from "effect"
import { spawn } from "node:child_process"
import { constants, setPriority } from "node:os"
import { createInterface } from "node:readline"
import { MemoryStore } from "../../src/index.ts"
import { NodeTransport } from "../../src/node/index.ts"
import { Anything } from "./attackedServer.ts"
import type { Kind } from "./attacker.ts"
import { type ProgramName, programPath } from "./sharedByRun.ts"

/** A process that is given lines and answers each with one. */
const start = (name: ProgramName, args: ReadonlyArray<string>, flags: ReadonlyArray<string> = []) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () =>
        spawn(process.execPath, [...flags, await programPath(name), ...args], { stdio: ["pipe", "pipe", "inherit"] })
      ),
      (child) => Effect.sync(() => void child.kill("SIGKILL"))
    ),
    (child) => {
      const { stdin, stdout } = child
      const lines = createInterface({ input: stdout })[Symbol.asyncIterator]()
      const next = Effect.promise(async () => {
        const { done, value } = await lines.next()
        if (done === true) throw new Error(`${name} has ended: ${child.exitCode ?? child.signalCode}`)
        return JSON.parse(String(value))
      })
      const tell = (line: string) => Effect.andThen(Effect.sync(() => stdin.write(`${line}\n`)), next)
      return {
        prioritize: (priority: number) => child.pid !== undefined && setPriority(child.pid, priority),
        next,
        tell,
        hasEnded: () => child.exitCode !== null || child.signalCode !== null
      }
    }
  )

interface Figures {
  readonly connections: number
  readonly sessions: number
  readonly heapMiB: number
  readonly rssMiB: number
  /** How long the event loop was busy with one round of it, at most, since the last time. */
  readonly loopMillis: number
}

/**
 * With a heap of 512 MB and default options; its handler takes `slowMillis` for what attackers send. The attacker has
 * what the others leave it of the processors, or another priority, which it needs where others are busy too.
 */
export const makeAttacked = Effect.fnUntraced(function*(
  slowMillis: number,
  priority: number = constants.priority.PRIORITY_LOW
) {
  const server = yield* start("attackedServer", [String(slowMillis)], ["--max-old-space-size=512"])
  const { port }: { readonly port: number } = yield* server.next
  const attacker = yield* start("attacker", [])
  attacker.prioritize(priority)
  return {
    port,
    hasEnded: server.hasEnded,
    figures: server.tell("figures") as Effect.Effect<Figures>,
    attack: (kind: Kind, connections: number, millis: number) =>
      attacker.tell(JSON.stringify({ kind, port, connections, millis })) as Effect.Effect<{
        readonly bytes: number
        readonly dials: number
      }>
  }
})

/** An honest client: sends a message at intervals, and knows how long its echo took. */
const makeHonest = Effect.fnUntraced(function*(port: number, name: string, everyMillis: number) {
  const sentAt: Array<number> = []
  let echoed = 0
  let isOrdered = true
  let latencies: Array<number> = []
  const layer = Anything.layerClient({
    url: `ws://127.0.0.1:${port}/ws`,
    token: Redacted.make(name),
    onMessage: (n) =>
      Effect.sync(() => {
        isOrdered &&= n === echoed
        latencies.push(performance.now() - (sentAt[echoed++] ?? 0))
      })
  }).pipe(Layer.provide(MemoryStore.layer()), Layer.provide(NodeTransport.layerClient))
  const client = Context.get(yield* Layer.build(layer), Anything.Client)
  yield* client.awaitConnected()
  const speak = Effect.suspend(() => {
    sentAt.push(performance.now())
    return client.send(sentAt.length - 1)
  })
  yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.orDie(speak), Effect.sleep(everyMillis))))
  return {
    /** Everything that it has sent until now has come back, once and in order. */
    isServed: Effect.suspend(() => {
      const wanted = sentAt.length
      return Effect.map(
        Effect.repeat(Effect.sleep(10), { until: () => Effect.succeed(echoed >= wanted) }),
        () => isOrdered
      )
    }),
    take: () => {
      const taken = latencies
      latencies = []
      return taken
    }
  }
})

export const makeCrowd = Effect.fnUntraced(function*(
  port: number,
  count: number,
  everyMillis: number
): Effect.fn.Return<Crowd, never, Scope.Scope> {
  const all = yield* Effect.forEach(
    Array.from({ length: count }, (_, n) => `honest-${n}`),
    (name) => Effect.orDie(makeHonest(port, name, everyMillis)),
    { concurrency: 16 }
  )
  return {
    areServed: Effect.map(
      Effect.forEach(all, ({ isServed }) => isServed, { concurrency: "unbounded" }),
      (served) => served.every((isOrdered) => isOrdered)
    ),
    take: () => {
      const latencies = all.flatMap(({ take }) => take()).sort((a, b) => a - b)
      return { count: latencies.length, p99: latencies[Math.floor(latencies.length * 0.99)] ?? Number.NaN }
    }
  }
})

export interface Crowd {
  /** All that was sent until now has come back; whether once, and in order. */
  readonly areServed: Effect.Effect<boolean>
  /** Of the echoes since the last time: how many, and how long they took, in ms. */
  readonly take: () => { readonly count: number; readonly p99: number }
}
