/** The benchmarks still run: one of them, as a newcomer starts it, and what comes out. How fast is not asked. */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { everything } from "./support/everything.ts"

const main = fileURLToPath(new URL("../bench/main.ts", import.meta.url))
const run = (...args: ReadonlyArray<string>) => promisify(execFile)(process.execPath, [main, ...args])

interface Figures {
  readonly count: number
  readonly rate: number
}
interface Document {
  readonly measurements: ReadonlyArray<{ readonly peer: string; readonly error?: string; readonly figures: Figures }>
}

describe("the benchmarks", () => {
  it("measure the library beside bare ws, verify every message, and say what was found", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-bench-"))
    try {
      const json = join(folder, "figures.json")
      const peers = everything ? ["promise", "resilient"] : ["resilient"]
      const { stdout } = await run("--quick", "--only", "W2", "--peers", peers.join(","), "--json", json)
      assert.match(stdout, /W2, server → client, 100 connections, round robin, msgs\/s +≥ 1\.8 ×/)
      if (everything) assert.match(stdout, /W2, .+promise, msgs\/s +≥ 0\.7 × resilient/)
      const { measurements } = JSON.parse(readFileSync(json, "utf8")) as Document
      assert.deepStrictEqual(measurements.map(({ peer }) => peer).sort(), [...peers, "ws"])
      for (const { error, figures } of measurements) {
        assert.isUndefined(error)
        assert.isAbove(figures.count, 0)
        assert.isAbove(figures.rate, 0)
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })

  it("measure the library with a store, beside bare ws", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-bench-"))
    try {
      const json = join(folder, "figures.json")
      await run("--quick", "--only", "W9a", "--peers", "sqlite", "--json", json)
      const { measurements } = JSON.parse(readFileSync(json, "utf8")) as Document
      assert.strictEqual(measurements.length, 4)
      for (const { error, figures } of measurements) {
        assert.isUndefined(error)
        assert.isAbove(figures.rate, 0)
      }
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })

  it("refuse what they do not know, with what they do know", async () => {
    const failed = await run("--only", "W99").then(() => undefined, (error: { readonly stderr: string }) => error)
    assert.include(`${failed?.stderr}`, "W1")
  })
})
