/**
 * What the test files of a run share, made when the first of them asks for it and removed with the run: a PostgreSQL, a
 * Redis, and the programs of `test/support` as bundles. Vitest's `globalSetup`; `sharedByRun.ts` is how files ask.
 */
import { Effect, Exit, Scope } from "effect"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { rolldown } from "rolldown"
import type { TestProject } from "vitest/node"
import { startPostgres } from "./postgresServer.ts"
import { startRedis } from "./redisServer.ts"
import { addressVariable, entryOf, programs, type Shared } from "./sharedByRun.ts"

type Makers = { readonly [Name in keyof Shared]: () => Promise<Shared[Name]> }

/** Starts to listen for what files ask for; returns what ends it. */
export default async (project: TestProject): Promise<() => Promise<void>> => {
  const scope = Scope.makeUnsafe()
  const made = new Map<string, Promise<unknown>>()
  let numbers = 0
  // For workers, and for what they start from source: to compile the same modules again would take half of a start.
  process.env["NODE_COMPILE_CACHE"] ??= fileURLToPath(new URL("../../node_modules/.cache/node", import.meta.url))
  const makers: Makers = {
    programs: () => Effect.runPromise(Scope.provide(bundles, scope)),
    postgres: async () => {
      const started = startPostgres({ config: ["max_connections = 300"] })
      const { directory, host, port, username } = await Effect.runPromise(Scope.provide(started, scope))
      return { host, port, username, directory }
    },
    redis: async () => {
      const { port, url } = await Effect.runPromise(Scope.provide(startRedis(), scope))
      return { port, url }
    },
    number: () => Promise.resolve(++numbers)
  }
  // `vitest` without `run`: somebody has changed the sources.
  project.onTestsRerun(() => void made.delete("programs"))
  const server = createServer((request, response) => {
    const name = request.url?.slice(1) as keyof Shared // only `sharedByRun.ts` asks
    const making = made.get(name) ?? makers[name]()
    if (name !== "number") made.set(name, making)
    making.then(
      (value) => response.end(JSON.stringify(value)),
      (error) => response.writeHead(500).end(String(error))
    )
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  const { port } = server.address() as AddressInfo // it listens on TCP
  process.env[addressVariable] = `http://127.0.0.1:${port}`
  return async () => {
    server.close()
    server.closeAllConnections()
    await Promise.allSettled(made.values())
    await Effect.runPromise(Scope.close(scope, Exit.void))
  }
}

/** All programs, in the folder that this gives. */
const bundles = Effect.gen(function*() {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "resilient-websocket-programs-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
  )
  yield* Effect.promise(async () => {
    const bundle = await rolldown({
      input: Object.fromEntries(
        programs.map((name) => [entryOf(name), fileURLToPath(new URL(`${name}.ts`, import.meta.url))])
      ),
      platform: "node",
      external: ["bufferutil", "utf-8-validate"], // which `ws` can do without
      logLevel: "silent"
    })
    await bundle.write({ dir: folder, format: "esm", entryFileNames: "[name].mjs", chunkFileNames: "[hash].mjs" })
    await bundle.close()
  })
  return folder
})
