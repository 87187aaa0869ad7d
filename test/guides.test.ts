/**
 * The guides for people who come from elsewhere: their programs are those in examples/guides, which run here. What the
 * guides are about is shown on both sides of each: what is sent while somebody is away is lost before, and comes in its
 * order after.
 */
import { assert, describe, it, type TestContext } from "@effect/vitest"
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { readdirSync } from "node:fs"
import { type AddressInfo, connect, createServer, type Socket } from "node:net"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { WebSocket } from "ws"
import { ResilientClient } from "../src/promise/index.ts"
import * as Docs from "./support/docs.ts"

const folder = "examples/guides"
const files = readdirSync(fileURLToPath(new URL(`../${folder}`, import.meta.url)))
const pages = ["docs/from-python.md", "docs/from-ws.md", "docs/from-socketio.md"]

describe("the code in the guides", () => {
  const blocks = pages.flatMap((page) => Docs.codeBlocks().filter((block) => block.page === page))

  it.each(files.filter((name) => name.endsWith(".ts")))("%s is in one of them, as it is run", (name) => {
    const found = blocks.filter((block) => block.name === name)
    assert.lengthOf(found, 1)
    assert.deepStrictEqual(Docs.comparable(found[0]?.code ?? ""), Docs.comparable(Docs.read(`${folder}/${name}`)))
  })

  it("python-before.py is in docs/from-python.md, as it is compiled", () => {
    const [, code] = /^```python\n([\s\S]*?)^```/m.exec(Docs.read("docs/from-python.md")) ?? []
    assert.strictEqual(code, Docs.read(`${folder}/python-before.py`))
  })
})

// --- programs, and what lies between them

interface Program {
  /** Everything that it has written so far. */
  readonly lines: ReadonlyArray<string>
  /** Waits until it has written a line like this so often. */
  readonly says: (pattern: RegExp, times?: number) => Promise<string>
  /** Gives it a line to read. */
  readonly hears: (line: string) => void
  /** Waits until it has ended; gives its exit code. */
  readonly ends: () => Promise<unknown>
  /** Ends it as a service manager does; gives its exit code. */
  readonly stop: () => Promise<unknown>
}

type Start = (name: string, env?: Readonly<Record<string, string>>) => Program

const startIn = (running: Set<ChildProcess>): Start => (name, env) => {
  const child = spawn(process.execPath, [fileURLToPath(new URL(`../${folder}/${name}`, import.meta.url))], {
    env: { ...process.env, PORT: "0", ...env },
    stdio: ["pipe", "pipe", "inherit"]
  })
  running.add(child)
  const lines: Array<string> = []
  const waiting = new Set<() => void>()
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line)
    for (const look of waiting) look()
  })
  const ends = async () => {
    const [code, by] = await closed
    running.delete(child)
    return code ?? by
  }
  const closed = once(child, "close") // and not "exit": its last lines are read by then
  return {
    lines,
    says: (pattern, times = 1) => {
      const said = new Promise<string>((resolve) => {
        const look = () => {
          const found = lines.filter((line) => pattern.test(line))[times - 1]
          if (found !== undefined) resolve(found)
        }
        waiting.add(look)
        look()
      })
      const ended = closed.then(([code]) => assert.fail(`${name} ended with ${code}; it said ${lines.join(" | ")}`))
      return Promise.race([said, ended])
    },
    hears: (line) => void child.stdin.write(`${line}\n`),
    ends,
    stop: () => {
      child.kill("SIGTERM")
      return ends()
    }
  }
}

const portOf = async (server: Program): Promise<string> =>
  (await server.says(/^listening on port \d+$/)).replace("listening on port ", "")

/** A network between a client and a server, which can be cut and mended. */
interface Network {
  readonly port: string
  /** Ends all connections, and takes no new ones. */
  readonly cut: () => void
  readonly mend: () => void
}

const networkTo = async (port: string, atEnd: (close: () => void) => void): Promise<Network> => {
  const open = new Set<Socket>()
  let isCut = false
  const server = createServer((client) => {
    if (isCut) return void client.destroy()
    const upstream = connect(Number(port), "127.0.0.1")
    for (const [socket, other] of [[client, upstream], [upstream, client]] as const) {
      open.add(socket)
      socket.on("error", () => {}) // `close` comes next
      socket.on("close", () => {
        open.delete(socket)
        other.destroy()
      })
      socket.pipe(other)
    }
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  const cut = () => {
    isCut = true
    for (const socket of open) socket.destroy()
  }
  atEnd(() => {
    cut()
    server.close()
  })
  return {
    port: String((server.address() as AddressInfo).port), // it listens on TCP
    cut,
    mend: () => {
      isCut = false
    }
  }
}

interface World {
  readonly start: Start
  readonly networkTo: (port: string) => Promise<Network>
}

/** Runs a test; what it started and did not stop does not outlive it, also when its time is over. */
const cleanly = (test: (world: World) => Promise<void>) => ({ onTestFinished }: TestContext) => {
  const running = new Set<ChildProcess>()
  const start = startIn(running)
  let isOver = false
  onTestFinished(() => {
    isOver = true
    for (const child of running) child.kill("SIGKILL")
  })
  return test({
    start: (name, env) => isOver ? assert.fail(`too late for ${name}`) : start(name, env),
    networkTo: (port) => networkTo(port, onTestFinished)
  })
}

// --- the scenario

interface Absence {
  /** What ann was told, from first to last. */
  readonly ann: ReadonlyArray<string>
  readonly bob: ReadonlyArray<string>
}

/**
 * Ann and bob talk. Ann's connection is cut; when both sides know, bob says something, and so does she. Then the network
 * is mended, and when she is back bob has the last word.
 */
const absence = async ({ networkTo, start }: World, kind: string, side: string): Promise<Absence> => {
  const isTold = /bob: |ann: /
  const joined = (name: string) =>
    kind === "socketio" ? new RegExp(`^${name} is in lobby$`) : new RegExp(`^${name} is here$`)
  const server = start(`${kind}-server-${side}.ts`)
  const port = await portOf(server)
  const network = await networkTo(port)
  const ann = start(`${kind}-client-${side}.ts`, { PORT: network.port, TOKEN: "secret-1" })
  const bob = start(`${kind}-client-${side}.ts`, { PORT: port, TOKEN: "secret-2" })
  await Promise.all([server.says(joined("ann")), server.says(joined("bob"))])

  bob.hears("one")
  await Promise.all([ann.says(/bob: one$/), bob.says(/bob: one$/)])

  network.cut()
  await Promise.all([server.says(/^ann is gone$/), ann.says(/^disconnected$/)])
  bob.hears("two")
  await bob.says(/bob: two$/)
  bob.hears("three")
  await bob.says(/bob: three$/)
  ann.hears("meanwhile")
  if (side === "before" && kind === "ws") await ann.says(/^not said: meanwhile$/)

  network.mend()
  await server.says(/^ann is here$/, 2)
  if (side === "before" && kind === "socketio") await server.says(joined("ann"), 2)
  // What she said while she was away is said before bob goes on.
  if (!(side === "before" && kind === "ws")) await bob.says(/ann: meanwhile$/)
  bob.hears("four")
  await Promise.all([ann.says(/bob: four$/), bob.says(/bob: four$/)])

  assert.strictEqual(await ann.stop(), 0)
  assert.strictEqual(await bob.stop(), 0)
  assert.strictEqual(await server.stop(), 0)
  const told = ({ lines }: Program) =>
    lines.filter((line) => isTold.test(line)).map((line) => line.replace(/^lobby: /, ""))
  return { ann: told(ann), bob: told(bob) }
}

const everything = ["bob: one", "bob: two", "bob: three", "ann: meanwhile", "bob: four"]

describe("coming from ws", () => {
  it(
    "before, what is said while ann is away is lost, to her and by her",
    cleanly(async (world) => {
      assert.deepStrictEqual(await absence(world, "ws", "before"), {
        ann: ["bob: one", "bob: four"],
        bob: ["bob: one", "bob: two", "bob: three", "bob: four"]
      })
    })
  )

  it(
    "after, both are told everything, in one order",
    cleanly(async (world) => {
      assert.deepStrictEqual(await absence(world, "ws", "after"), { ann: everything, bob: everything })
    })
  )

  it(
    "a page with a plain WebSocket is served too, and a client with a wrong token told to stop",
    cleanly(async ({ start }) => {
      const server = start("ws-server-after.ts")
      const PORT = await portOf(server)
      const client = start("ws-client-after.ts", { PORT, TOKEN: "wrong" })
      assert.strictEqual(await client.ends(), 0)
      assert.include(client.lines, "stopped")
      const page = new WebSocket(`ws://127.0.0.1:${PORT}`, { headers: { authorization: "Bearer secret-1" } })
      await once(page, "open")
      page.send("hello")
      const [answer, isBinary] = await once(page, "message")
      assert.deepStrictEqual(JSON.parse(String(answer)), { from: "ann", text: "hello" })
      assert.isFalse(isBinary)
      const closed = once(page, "close")
      assert.strictEqual(await server.stop(), 0)
      assert.strictEqual((await closed)[0], 4000)
    })
  )
})

describe("coming from Socket.IO", () => {
  it(
    "before, what is said in a room while ann is away is lost to her; what she says waits in her client",
    cleanly(async (world) => {
      const { ann, bob } = await absence(world, "socketio", "before")
      assert.deepStrictEqual(bob, everything)
      // Whether she hears herself depends on what her client sends first when it is back: that, or that she joins.
      assert.deepStrictEqual(ann.filter((line) => line.startsWith("bob")), ["bob: one", "bob: four"])
    })
  )

  it(
    "after, both are told everything, in one order",
    cleanly(async (world) => {
      assert.deepStrictEqual(await absence(world, "socketio", "after"), { ann: everything, bob: everything })
    })
  )
})

describe("coming from the Python manager", () => {
  it(
    "after, notes wait for who is away, whoever comes back under the name, from whatever port",
    cleanly(async ({ start }) => {
      const server = start("python-after.ts")
      const url = `ws://127.0.0.1:${await portOf(server)}`
      const first = new WebSocket(`${url}/ann`)
      await server.says(/^ann: Connected$/)
      first.close()
      await server.says(/^ann: Disconnected$/)

      const bob = new WebSocket(`${url}/bob`)
      await once(bob, "open")
      for (const text of ["one", "two"]) bob.send(JSON.stringify({ to: "ann", text }))
      bob.send(JSON.stringify({ to: "carol", text: "three" }))
      const [answer] = await once(bob, "message") // its messages are handled in order, so the others are too
      assert.deepStrictEqual(JSON.parse(String(answer)), { from: "post", text: "nobody is called carol" })

      const notes: Array<unknown> = []
      const both = Promise.withResolvers<void>()
      const ann = await ResilientClient.connect(`${url}/ann`, {
        onMessage: (note) => notes.push(note) === 2 && both.resolve()
      })
      await both.promise
      await ann.close()
      assert.deepStrictEqual(notes, [{ from: "bob", text: "one" }, { from: "bob", text: "two" }])
      await server.says(/^ann: Disconnected$/, 2)

      bob.send(JSON.stringify({ to: "ann", text: "four" }))
      bob.send(JSON.stringify({ to: "carol", text: "five" }))
      await once(bob, "message")
      const closed = once(bob, "close")
      assert.strictEqual(await server.stop(), 0)
      await closed
      assert.deepStrictEqual(server.lines.slice(-2), [
        "not delivered to ann, shutdown: four",
        "1 notes were not delivered"
      ])
    })
  )
})

/**
 * That is all that can be done with the program from before: the package that it imports is part of another system, and
 * is not published. Where there is no Python not even that; in CI there is.
 */
const python = spawnSync("python3", ["--version"], { encoding: "utf8" }).status === 0
if (!python) console.warn("\n*** SKIPPED: python-before.py is Python. python3 was not found here.\n")
describe.skipIf(!python)("python-before.py", () => {
  it("is Python", () => {
    const { status, stderr } = spawnSync("python3", ["-c", "import ast, sys; ast.parse(sys.stdin.read())"], {
      input: Docs.read(`${folder}/python-before.py`),
      encoding: "utf8"
    })
    assert.strictEqual(status, 0, stderr)
  })
})
