/** Programs with the promise face as one file, without a `node_modules` beside it: what is bundled is what is used. */
import { assert, describe, it } from "@effect/vitest"
import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { rolldown } from "rolldown"
import { onTestFinished } from "vitest"
import { root } from "./support/docs.ts"

/** Bundles a program, runs it where there are no packages, and says what it wrote and which packages it took in. */
const bundled = async (program: string) => {
  const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const entry = join(folder, "entry.ts")
  const entries = Object.fromEntries(
    ["promise", "redis", "postgres"].map((name) => [`resilient-websocket/${name}`, join(root, `src/${name}/index.ts`)])
  )
  writeFileSync(entry, program)
  const bundle = await rolldown({
    input: entry,
    platform: "node",
    resolve: { alias: entries },
    external: ["bufferutil", "utf-8-validate"], // which `ws` can do without
    logLevel: "silent"
  })
  const file = join(folder, "main.mjs")
  const { output } = await bundle.write({ file, format: "esm", codeSplitting: false })
  await bundle.close()
  const modules = output.flatMap((part) => part.type === "chunk" ? part.moduleIds : [])
  const imports = output.flatMap((part) => part.type === "chunk" ? [...part.imports, ...part.dynamicImports] : [])
  rmSync(entry)
  const wrote = execFileSync(process.execPath, ["--no-warnings", file], { cwd: folder, encoding: "utf8" }).trim()
  return { wrote, takesIn: (name: string) => [...modules, ...imports].some((id) => id.includes(name)) }
}

const using = (store: string, imported = "") => `
${imported}
import { ResilientWebSocketManager } from "resilient-websocket/promise"
const made = ResilientWebSocketManager.make({ log: false, store: ${store} })
console.log(await made.then(async (manager) => {
  const sent = await manager.send("nobody", 1, { critical: true }).catch((error) => error._tag)
  await manager.gracefulShutdown()
  return sent
}, (error) => error._tag + " " + error.message))
`

describe("a bundle of a program with the promise face", () => {
  it("needs no package of a store that it does not use", async () => {
    const { takesIn, wrote } = await bundled(using("{ type: 'memory' }"))
    assert.strictEqual(wrote, "resilient-websocket/SessionNotFoundError")
    assert.isTrue(takesIn("/ws/"))
    assert.isFalse(takesIn("redis"))
    assert.isFalse(takesIn("sql-pg"))
  })

  it("uses SQLite, for which no package is needed", async () => {
    const { wrote } = await bundled(using("{ type: 'sqlite', filename: ':memory:' }"))
    assert.strictEqual(wrote, "resilient-websocket/SessionNotFoundError")
  })

  it("says what to do for a store that it was not given", async () => {
    const { wrote } = await bundled(using("{ type: 'redis', url: 'redis://127.0.0.1:9' }"))
    assert.match(wrote, /^ConfigError in a bundle, .* `from: RedisStore`/)
  })

  it.each([
    ["redis", "RedisStore"],
    ["postgres", "PostgresStore"]
  ])("has the store of type %s that it was given", async (type, name) => {
    const { wrote } = await bundled(using(
      `{ type: "${type}", url: "${type}://127.0.0.1:9", from: ${name} }`,
      `import { ${name} } from "resilient-websocket/${type}"`
    ))
    assert.match(wrote, /^resilient-websocket\/MessageQueueError/) // it is not there
  })
})
