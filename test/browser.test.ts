/** Effect programs for targets without Node: pages and workers get the client, and the memory layers, as they are. */
import { assert, describe, it } from "@effect/vitest"
import { build, type Platform } from "esbuild"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { root } from "./support/docs.ts"

const client = `
import { Effect, Layer, Schema } from "effect"
import { Socket } from "effect/socket"
import { Contract, MemoryStore, Transport } from "resilient-websocket"
const Talk = Contract.make("page/Talk", { toServer: Schema.String, toClient: Schema.String })
const Client = Talk.layerClient({ url: "/live", onMessage: (text) => Effect.log(text) }).pipe(
  Layer.provide(MemoryStore.layer()),
  Layer.provide(Transport.layerClientWebSocket.pipe(Layer.provide(Socket.layerWebSocketConstructorGlobal)))
)
Effect.runFork(Layer.launch(Client))
`

/** Both sides in one page. */
const both = `
import { Effect, Layer, Schema } from "effect"
import { Contract, MemoryStore, Transport } from "resilient-websocket"
const Talk = Contract.make("page/Talk", { toServer: Schema.String, toClient: Schema.String })
const Page = Layer.mergeAll(Talk.layerServer(), Talk.layerClient({ url: "" })).pipe(
  Layer.provide([MemoryStore.layer(), Transport.layerMemory])
)
Effect.runFork(Layer.launch(Page))
`

const kilobytes = (bytes: number): string => `${Math.round(bytes / 1024)} kB`

const bundled = async (contents: string, platform: Platform, conditions: Array<string>) => {
  const { errors, metafile, outputFiles, warnings } = await build({
    stdin: { contents, resolveDir: root, loader: "ts" },
    bundle: true,
    write: false,
    metafile: true,
    minify: true,
    format: "esm",
    target: "es2024",
    platform,
    conditions,
    absWorkingDir: root,
    logLevel: "silent",
    alias: { "resilient-websocket": join(root, "src/index.ts") }
  })
  const [file] = outputFiles
  if (file === undefined) return assert.fail("nothing was bundled")
  const own = Object.values(metafile.outputs).flatMap(({ inputs }) => Object.entries(inputs))
    .reduce((bytes, [path, { bytesInOutput }]) => path.startsWith("src/") ? bytes + bytesInOutput : bytes, 0)
  return {
    problems: [...errors, ...warnings].map(({ text }) => text),
    inputs: Object.keys(metafile.inputs),
    text: file.text,
    sizes: [
      `${kilobytes(file.contents.length)} minified`,
      `${kilobytes(gzipSync(file.contents).length)} gzipped`,
      `${kilobytes(own)} of it ours, the rest Effect`
    ].join(", ")
  }
}

describe.each(
  [
    ["a page", "browser", ["browser"]],
    ["a worker such as workerd", "neutral", ["workerd", "worker"]]
  ] as const
)("a bundle for %s", (target, platform, conditions) => {
  it.each([["an Effect client", client], ["both sides in memory", both]])(
    "of %s has nothing of Node, nor of `ws`, and no warning",
    async (what, program) => {
      const { inputs, problems, sizes, text } = await bundled(program, platform, [...conditions, "import", "module"])
      assert.deepStrictEqual(problems, [])
      assert.notMatch(text, /\bfrom\s*"node:|\brequire\s*\(\s*"|import\s*\(\s*"node:/)
      assert.deepStrictEqual(
        inputs.filter((path) => /\/ws\/|src\/(node|promise|sqlite|postgres|redis)\//.test(path)),
        []
      )
      console.log(`${what} for ${target}: ${sizes}`)
    }
  )
})
