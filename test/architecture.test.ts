/**
 * Imports point one way: promise → node and stores → services → internal → core, and the core imports nothing but
 * itself. The stores know of each other as little as of the transports.
 */
import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative, resolve } from "node:path"
import { fileURLToPath } from "node:url"

const src = fileURLToPath(new URL("../src", import.meta.url))

interface Import {
  readonly from: string
  readonly to: string
}

const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))

const imports: ReadonlyArray<Import> = files.flatMap((name) => {
  const text = readFileSync(join(src, name), "utf8").replace(/\/\*[\s\S]*?\*\//g, "")
  const specifiers = /(?:import|export)[^"']*?from\s+"([^"]+)"|\bimport\("([^"]+)"\)/g
  return [...text.matchAll(specifiers)].map(([, named, loaded]) => named ?? loaded ?? "").map((specifier) => ({
    from: name,
    to: specifier.startsWith(".") ? relative(src, resolve(dirname(join(src, name)), specifier)) : specifier
  }))
})

const offences = (breaks: (edge: Import) => boolean) => imports.filter(breaks).map(({ from, to }) => `${from} → ${to}`)

describe("import directions", () => {
  it("are found at all", () => {
    assert.isAbove(imports.length, 100)
  })

  it("the core imports nothing outside itself", () => {
    assert.deepStrictEqual(offences(({ from, to }) => from.startsWith("core/") && !to.startsWith("core/")), [])
  })

  it("nothing imports the face for programs without Effect", () => {
    assert.deepStrictEqual(offences(({ from, to }) => to.startsWith("promise/") && !from.startsWith("promise/")), [])
  })

  it("nothing but the Node entry points and the promise face imports src/node", () => {
    assert.deepStrictEqual(offences(({ from, to }) => to.startsWith("node/") && !/^(node|promise)\//.test(from)), [])
  })

  it("the promise face loads a store when it is asked for", () => {
    const text = readFileSync(join(src, "promise/stores.ts"), "utf8")
    assert.include(text, `import("../sqlite/index.ts")`)
    // What needs a package is loaded by a name that bundlers don't see.
    assert.notMatch(text, /import\("\.\.\/(postgres|redis)/)
    assert.notMatch(text.replace(/^import type .*$/gm, ""), /from "\.\.\/(sqlite|postgres|redis)/)
  })

  it.each(["sqlite", "postgres", "redis", "testing"])("nothing else imports src/%s", (entry) => {
    assert.deepStrictEqual(
      offences(({ from, to }) =>
        to.startsWith(`${entry}/`) && !from.startsWith(`${entry}/`) && from !== "promise/stores.ts"
      ),
      []
    )
  })

  it("the stores and what users test with import nothing of the engine, and of each other only what they share", () => {
    const allowed = /^(sqlite|postgres|redis|testing|internal\/store)\/|^internal\/kit\/(options|backoff|time)\.ts$/
    assert.deepStrictEqual(
      offences(({ from, to }) =>
        /^(sqlite|postgres|redis|testing)\//.test(from) && to.startsWith("internal/") && !allowed.test(to)
      ),
      []
    )
  })

  it("of what users test with, only src/testing/node needs Node", () => {
    assert.deepStrictEqual(
      offences(({ from, to }) => /^testing\/\w+\.ts$/.test(from) && /^(node:|testing\/node\/)/.test(to)),
      []
    )
  })

  /** By wing of `internal`, which others of them it may import. */
  const wings: Record<string, ReadonlyArray<string>> = {
    kit: [],
    circuits: ["kit"],
    bounds: ["kit"],
    transports: ["kit"],
    socket: ["kit"],
    memory: ["bounds", "kit"],
    store: ["bounds", "kit"],
    session: ["bounds", "circuits", "kit"],
    send: ["session", "kit"],
    deliver: ["session", "kit"],
    handle: ["session", "bounds", "kit"],
    run: ["deliver", "handle", "session", "kit"],
    own: ["run", "session", "kit"],
    connect: ["run", "session", "bounds", "kit"],
    sides: ["connect", "own", "run", "send", "handle", "session", "kit"]
  }
  const wingOf = (file: string): string | undefined => /^internal\/(?:(\w+)\/)?\w+\.ts$/.exec(file)?.[1]

  it("every file of src/internal is in one of its wings", () => {
    const flat = files.filter((file) => file.startsWith("internal/") && !(String(wingOf(file)) in wings))
    assert.deepStrictEqual(flat, [])
  })

  it("no wing imports another but those below it", () => {
    assert.deepStrictEqual(
      offences(({ from, to }) => {
        const [at, other] = [wingOf(from), wingOf(to)]
        return at !== undefined && other !== undefined && at !== other && !wings[at]?.includes(other)
      }),
      []
    )
  })

  /** By file outside of the room that writes a part of a session's state, what it may tell that part. */
  const told: Record<string, Record<string, ReadonlyArray<string>>> = {
    incoming: {
      "internal/run/handlers.ts": ["runsIn"],
      "internal/session/peer.ts": ["inherit"]
    },
    outgoing: {
      "internal/connect/greeting.ts": ["acknowledged"],
      "internal/handle/inbound.ts": ["acknowledged", "arrived"],
      "internal/run/connections.ts": ["cutAt", "cutIdle"],
      "internal/run/leaving.ts": ["moved", "opened"],
      "internal/session/dialects.ts": ["resumed"],
      "internal/session/peer.ts": ["inherit"],
      "internal/sides/client.ts": ["opened"]
    }
  }

  it.each([["incoming", "handle"], ["outgoing", "deliver"]])("a session's %s is written in %s/ alone", (part, room) => {
    // Transports have something else of that name.
    const others = files.filter((file) => !file.startsWith(`internal/${room}/`) && !file.includes("transports/"))
    const calls = others.flatMap((file) =>
      [...readFileSync(join(src, file), "utf8").matchAll(new RegExp(`\\b${part}\\??\\.(\\w+)\\(`, "g"))]
        .map(([, method = ""]) => `${file}: ${method}`)
    )
    const allowed = Object.entries(told[part] ?? {}).flatMap(([file, methods]) =>
      methods.map((method) => `${file}: ${method}`)
    )
    assert.deepStrictEqual([...new Set(calls)].sort(), allowed.sort())
  })

  it("frames are written in the codec and nowhere else", () => {
    const byHand = files.filter((file) =>
      file !== "core/Codec.ts" && /\{\\?"t\\?"\s*:/.test(readFileSync(join(src, file), "utf8"))
    )
    assert.deepStrictEqual(byHand, [])
  })

  it("the wings go in one direction", () => {
    const above = (wing: string, seen: ReadonlyArray<string> = []): ReadonlyArray<string> =>
      (wings[wing] ?? []).flatMap((next) => seen.includes(next) ? [next] : [next, ...above(next, [...seen, next])])
    for (const wing of Object.keys(wings)) assert.notInclude(above(wing), wing)
  })

  it("what the stores share knows no database", () => {
    assert.deepStrictEqual(
      offences(({ from, to }) =>
        from.startsWith("internal/store/") && /^(effect\/(sql|persistence)|@effect\/sql-pg|redis|node:sqlite)$/.test(to)
      ),
      []
    )
  })

  it.each([
    ["node:sqlite", "sqlite/"],
    ["@effect/sql-pg", "postgres/"],
    ["redis", "redis/"]
  ])("%s is known in src/%s only", (module, folder) => {
    assert.deepStrictEqual(offences(({ from, to }) => to === module && !from.startsWith(folder)), [])
  })

  it("only the Node transport and the promise face know the `ws` package", () => {
    const allowed = [
      "node/NodeTransport.ts",
      "node/ownServers.ts",
      "node/webSockets.ts",
      "internal/transports/wsConnection.ts"
    ]
    // The promise face is given its users' sockets.
    assert.deepStrictEqual(
      offences(({ from, to }) => to === "ws" && !allowed.includes(from) && !from.startsWith("promise/")),
      []
    )
  })

  it("unstable modules of Effect stay behind few files", () => {
    const unstable = offences(({ to }) => /^effect\/(socket|sql|persistence|http|cli|observability|rpc)$/.test(to))
    const perModule = new Map<string, Set<string>>()
    for (const edge of unstable) {
      const [from = "", to = ""] = edge.split(" → ")
      perModule.set(to, (perModule.get(to) ?? new Set()).add(from))
    }
    const allowed: Record<string, ReadonlyArray<string>> = {
      // An Effect Socket comes in as a connection, and a session goes out as an Effect Socket: two sides of one module.
      "effect/socket": ["internal/transports/socketConnection.ts", "ResilientSocket.ts"],
      // A route of the program's own HTTP server; and headers that don't show their secrets.
      "effect/http": ["internal/transports/routerTransport.ts", "internal/session/identity.ts"],
      // The client that is made on node:sqlite, the one that is used on PostgreSQL, and the types of both stores' layers.
      "effect/sql": [
        "sqlite/SqliteClient.ts",
        "sqlite/sqliteConnection.ts",
        "sqlite/SqliteStore.ts",
        "postgres/connection.ts",
        "postgres/PostgresStore.ts"
      ],
      "effect/persistence": ["redis/connection.ts", "redis/RedisClient.ts", "redis/RedisStore.ts"]
    }
    for (const [module, users] of perModule) {
      assert.includeMembers([...(allowed[module] ?? [])], [...users], module)
    }
  })

  it("only few files read a clock: durations go by steady time", () => {
    const reads = files.filter((name) =>
      /currentTime(Millis|Nanos)|monotonicTime|Date\.now|new Date\(\)|performance\.now|hrtime|DateTime\.now/.test(
        readFileSync(join(src, name), "utf8").replace(/^\s*(\/\/|\*|\/\*\*).*$/gm, "")
      )
    )
    assert.deepStrictEqual(
      reads.sort(),
      [
        "internal/kit/time.ts", // the room of both clocks
        "node/Custody.ts", // how long a socket took until there was a program to ask for its clock
        "promise/ResilientClient.ts", // how long it is up
        "promise/ResilientWebSocketManager.ts", // the same
        "promise/figures.ts", // the same, and what people are shown
        "promise/hooks.ts", // what people are shown
        "sqlite/sqliteDriver.ts" // the clock of this store is its machine's
      ].sort()
    )
  })

  it("no run of an effect is hidden inside the library, but for coding, which is synchronous: in the promise face there is one room for it", () => {
    const runs = files.filter((name) =>
      /(Effect|runtime)\.run(Sync|Promise)/.test(readFileSync(join(src, name), "utf8"))
    )
    assert.sameMembers(runs, ["promise/running.ts", "internal/kit/schemas.ts"])
  })
})
