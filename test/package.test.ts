/** The package as a user gets it: packed, installed into an empty project, type-checked against, and run. */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync, spawnSync } from "node:child_process"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync
} from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join, normalize } from "node:path"
import { fileURLToPath } from "node:url"
import * as Docs from "./support/docs.ts"

const root = fileURLToPath(new URL("..", import.meta.url))

const program = `
import { Effect, Layer, Schema } from "effect"
import { Contract, MemoryStore, type WebSocketError } from "resilient-websocket"
import { NodeTransport } from "resilient-websocket/node"
import { SqliteStore } from "resilient-websocket/sqlite"

const Echo = Contract.make("user/Echo", { toServer: Schema.String, toClient: Schema.String })

const Server = Echo.layerServer({
  onMessage: (text, { server, session }) => server.send(session, text.toUpperCase())
}).pipe(
  Layer.provide(SqliteStore.layer({ filename: "echo.db" })),
  Layer.provide(NodeTransport.layerServer({ port: 0 }))
)

const main = Effect.gen(function*() {
  const server = yield* Echo.Server
  const answer = yield* Effect.callback<string>((resume) => {
    const client = Echo.layerClient({
      url: \`ws://127.0.0.1:\${server.address.port}\`,
      onMessage: (text) => Effect.sync(() => resume(Effect.succeed(text)))
    }).pipe(Layer.provide(MemoryStore.layer()), Layer.provide(NodeTransport.layerClient))
    Effect.runFork(Effect.scoped(Effect.gen(function*() {
      const { send } = yield* Echo.Client
      yield* send("hello")
      yield* Effect.never
    }).pipe(Effect.provide(client))))
  })
  console.log(answer)
})

const onError = (error: WebSocketError.WebSocketError): string => error.message
void onError
await Effect.runPromise(Effect.provide(main, Server))
process.exit(0)
`

/** The same without Effect: nothing of it is imported, nor has to be there for the types. */
const withoutEffect = `
import { once } from "node:events"
import type { AddressInfo } from "node:net"
import { QueueOverflowError, ResilientClient, ResilientWebSocketManager, type WebSocketError } from "resilient-websocket/promise"
import { WebSocketServer } from "ws"

const manager = await ResilientWebSocketManager.make<string, string>({
  store: { type: "sqlite", filename: "manager.db" },
  ttl: "1 hour",
  onMessage: (text, { reply }) => reply(text.toUpperCase())
})
const server = new WebSocketServer({ host: "127.0.0.1", port: 0 })
server.on("connection", (ws) => void manager.registerConnection(ws))
await once(server, "listening")
const client = await ResilientClient.connect<string, string>(\`ws://127.0.0.1:\${(server.address() as AddressInfo).port}\`)
await client.send("hello")
for await (const answer of client) {
  console.log(answer)
  break
}
const explain = (error: WebSocketError): number | string =>
  error instanceof QueueOverflowError ? error.bound : error._tag === "resilient-websocket/TransportError" ? error.detail : error.message
void explain
await client.close()
await manager.gracefulShutdown({ timeout: "1 second" })
server.close()
`

/** The declarations that one of the package's files leads to, and the packages that these name. */
const declarationsOf = (file: string, found = new Map<string, ReadonlyArray<string>>()) => {
  if (found.has(file)) return found
  const code = readFileSync(file, "utf8").replace(/\/\*[\s\S]*?\*\//g, "")
  const specifiers = [...code.matchAll(/(?:from|import)\s*\(?"([^"]+)"/g)].map(([, name = ""]) => name)
  found.set(file, specifiers.filter((name) => !name.startsWith(".")))
  for (const name of specifiers) {
    if (name.startsWith(".")) declarationsOf(join(dirname(file), name.replace(/\.(js|ts)$/, ".d.ts")), found)
  }
  return found
}

/** Their names, with scopes. */
const packagesOf = (folder: string): ReadonlyArray<string> =>
  readdirSync(folder).filter((name) => !name.startsWith(".")).flatMap((name) =>
    name.startsWith("@") ? readdirSync(join(folder, name)).map((inner) => `${name}/${inner}`) : [name]
  )

/** Runs npm on the Node that runs the tests. */
const npm = (cwd: string, ...args: ReadonlyArray<string>): string => {
  const script = process.env["npm_execpath"]
  const [command, first] = script === undefined ? ["npm", []] : [process.execPath, [script]]
  return execFileSync(command, [...first, ...args], { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
}

describe("the packed package", () => {
  it("installs into an empty project, type-checks and runs", () => {
    const project = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
    try {
      // As `prepack` does, but for the packages, which it would install anew where they are not as the lock file says.
      const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
        readonly scripts: Readonly<Record<string, string>>
      }
      assert.deepInclude(scripts, { prepack: "npm run build", build: "node scripts/build.mjs" })
      execFileSync(process.execPath, [join(root, "scripts/build.mjs")], { stdio: "pipe" })
      npm(root, "pack", "--silent", "--ignore-scripts", "--pack-destination", project)
      const tarball = readdirSync(project).find((name) => name.endsWith(".tgz"))
      assert.isDefined(tarball)
      writeFileSync(join(project, "package.json"), JSON.stringify({ name: "user", private: true, type: "module" }))
      npm(project, "install", "--no-audit", "--no-fund", "--prefer-offline", "--legacy-peer-deps", `./${tarball}`)
      const installed = join(project, "node_modules/resilient-websocket")
      const { exports } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8")) as {
        readonly exports: Readonly<Record<string, string | null>>
      }
      const entries = Object.values(exports).filter((entry) => entry !== null)
      // Each public module is an entry of its own, beside the one that has it among others.
      for (const [entry, file] of Object.entries(exports)) {
        if (file?.endsWith("/index.js") !== true) continue
        const barrel = readFileSync(join(installed, file.replace(/\.js$/, ".d.ts")), "utf8")
        for (const [, name = ""] of barrel.matchAll(/export \* as (\w+) from/g)) {
          assert.strictEqual(exports[`${entry}/${name}`], file.replace("index.js", `${name}.js`))
        }
      }
      assert.deepStrictEqual(entries.filter((entry) => !existsSync(join(installed, entry))), [])
      const use = (name: string) => {
        mkdirSync(dirname(join(project, "node_modules", name)), { recursive: true })
        symlinkSync(join(root, "node_modules", name), join(project, "node_modules", name), "dir")
      }
      mkdirSync(join(project, "node_modules"), { recursive: true })
      for (const name of ["@types", "undici-types"]) use(name)
      writeFileSync(join(project, "main.ts"), program)
      writeFileSync(join(project, "withoutEffect.ts"), withoutEffect)
      writeFileSync(
        join(project, "tsconfig.json"),
        JSON.stringify({
          compilerOptions: {
            module: "NodeNext",
            target: "ES2024",
            strict: true,
            exactOptionalPropertyTypes: true,
            noEmit: true,
            types: ["node"],
            preserveSymlinks: true
          }
        })
      )
      const check = (name: string) => {
        writeFileSync(
          join(project, `tsconfig.${name}.json`),
          JSON.stringify({ extends: "./tsconfig.json", include: [name] })
        )
        execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", `tsconfig.${name}.json`], {
          cwd: project,
          encoding: "utf8",
          stdio: "pipe"
        })
      }
      const run = (name: string) =>
        execFileSync(process.execPath, ["--preserve-symlinks", name], { cwd: project, encoding: "utf8" }).trim()

      const declarations = declarationsOf(join(installed, "dist/promise/index.d.ts"))
      assert.isAbove(declarations.size, 5)
      assert.sameMembers([...new Set([...declarations.values()].flat())], ["ws", "node:http"])
      check("withoutEffect.ts") // with no Effect there: its types need none
      // The peer dependency is the user's: here, the one that this checkout has.
      use("effect")
      check("main.ts")
      assert.deepStrictEqual([run("main.ts"), run("withoutEffect.ts")], ["HELLO", "HELLO"])

      // Every type that an example exports can be named by who imports only the package.
      for (const name of packagesOf(join(root, "node_modules"))) {
        if (!existsSync(join(project, "node_modules", name))) use(name)
      }
      mkdirSync(join(project, "docs"))
      for (const { code, line, name, page } of Docs.codeBlocks()) {
        writeFileSync(join(project, "docs", name ?? `${page.replaceAll("/", ".")}.L${line}.ts`), code)
      }
      writeFileSync(
        join(project, "tsconfig.docs.json"),
        JSON.stringify({
          extends: "./tsconfig.json",
          compilerOptions: {
            noEmit: false,
            declaration: true,
            composite: true,
            emitDeclarationOnly: true,
            allowImportingTsExtensions: true,
            skipLibCheck: true,
            moduleDetection: "force",
            lib: ["ES2024", "DOM", "ESNext.Disposable"],
            outDir: "declared"
          },
          include: ["docs"]
        })
      )
      const { status, stdout } = spawnSync(join(root, "node_modules/.bin/tsc"), ["-p", "tsconfig.docs.json"], {
        cwd: project,
        encoding: "utf8"
      })
      assert.strictEqual(status, 0, stdout)
      const declared = readdirSync(join(project, "declared"), { recursive: true, encoding: "utf8" })
        .filter((file) => file.endsWith(".d.ts"))
      assert.isAbove(declared.length, 20)
      const exposes = (file: string) =>
        /["/](internal|core|dist)\//.test(readFileSync(join(project, "declared", file), "utf8"))
      assert.deepStrictEqual(declared.filter(exposes), [])
    } finally {
      rmSync(project, { recursive: true, force: true })
    }
  })

  /** The files that are packed, but those of a build. */
  const packed = (): ReadonlyArray<string> => {
    const [{ files }] = JSON.parse(npm(root, "pack", "--dry-run", "--json", "--silent", "--ignore-scripts")) as [
      { readonly files: ReadonlyArray<{ readonly path: string }> }
    ]
    return files.map(({ path }) => path).filter((path) => !/^dist\/.*\.(js|js\.map|d\.ts)$/.test(path))
  }

  it("contains what users need, and nothing else", () => {
    const forUsers = (path: string): boolean =>
      ["package.json", "README.md", "LICENSE", "PROTOCOL.md", "CHANGELOG.md", "bench/README.md"].includes(path) ||
      (/^docs\/[\w-]+\.md$/.test(path) && path !== "docs/architecture.md") ||
      (/^examples\/[\w/-]+\.(ts|html|py)$/.test(path) && !path.startsWith("examples/demo/"))
    assert.deepStrictEqual(packed().filter((path) => !forUsers(path)), [])
  })

  it("has every file and folder that one of its pages links to", () => {
    const files = packed()
    const pages = files.filter((path) => path.endsWith(".md"))
    assert.includeMembers([...pages], ["README.md", "PROTOCOL.md", "docs/options.md", "docs/errors.md"])
    const links = pages.flatMap((page) =>
      Docs.linksOf(page).filter((link) => !/^([a-z]+:|#)/.test(link)).map((link) => ({ page, link }))
    )
    assert.isAbove(links.length, 50)
    const missing = links.filter(({ link, page }) => {
      const target = normalize(join(dirname(page), link.replace(/#.*/, "")))
      return !files.some((file) => file === target || file.startsWith(`${target}/`))
    })
    assert.deepStrictEqual(missing, [])
  })
})
