/** Imports point one way: node → services → internal → core, and the core imports nothing but itself. */
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
  return [...text.matchAll(/(?:import|export)[^"']*?from\s+"([^"]+)"/g)].map(([, specifier = ""]) => ({
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

  it("nothing but the Node entry points imports src/node", () => {
    assert.deepStrictEqual(offences(({ from, to }) => to.startsWith("node/") && !from.startsWith("node/")), [])
  })

  it("only the Node transport knows the `ws` package", () => {
    const allowed = ["node/NodeTransport.ts", "internal/wsConnection.ts"]
    assert.deepStrictEqual(offences(({ from, to }) => to === "ws" && !allowed.includes(from)), [])
  })

  it("unstable modules of Effect stay behind one file each", () => {
    const unstable = offences(({ to }) => /^effect\/(socket|sql|persistence|http|cli|observability|rpc)$/.test(to))
    const perModule = new Map<string, Set<string>>()
    for (const edge of unstable) {
      const [from = "", to = ""] = edge.split(" → ")
      perModule.set(to, (perModule.get(to) ?? new Set()).add(from))
    }
    // An Effect Socket comes in as a connection, and a session goes out as an Effect Socket: two sides of one module.
    const allowed: Record<string, number> = { "effect/socket": 2 }
    for (const [module, users] of perModule) {
      assert.isAtMost(users.size, allowed[module] ?? 1, `${module}: ${[...users].join(", ")}`)
    }
  })

  it("no run of an effect is hidden inside the library", () => {
    const runs = files.filter((name) => /Effect\.run(Sync|Promise)/.test(readFileSync(join(src, name), "utf8")))
    assert.deepStrictEqual(runs, [])
  })
})
