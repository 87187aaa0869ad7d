/** The demo itself, as its users run it. */
import { assert, describe, it } from "@effect/vitest"
import { type ChildProcess, execFile, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { amount } from "../support/everything.ts"

const main = fileURLToPath(new URL("../../examples/demo/main.ts", import.meta.url))

const run = (...args: ReadonlyArray<string>) => promisify(execFile)(process.execPath, [main, ...args])

describe("the demo", () => {
  it(
    "loses, repeats and reorders nothing while two servers on one SQLite file are killed again and again",
    async () => {
      const messages = amount(5_000, 2_000)
      const flags =
        `--json --store sqlite --servers 2 --kills-per-minute 60 --cuts-per-minute 300 --messages ${messages} --seed 1`
      const { stdout } = await run(...flags.split(" "))
      const summary = JSON.parse(stdout)
      assert.deepInclude(summary, { ok: true, store: "sqlite", servers: 2, clients: 8 })
      assert.deepInclude(summary.total, {
        sent: 2 * messages,
        handled: 2 * messages,
        lost: 0,
        duplicated: 0,
        reordered: 0,
        corrupted: 0
      })
      assert.isAbove(summary.kills, 0)
      assert.isAbove(summary.moves, 0)
    }
  )

  it("refuses kills of a server that keeps everything in memory", async () => {
    const { code, stderr } = await run("--kills-per-minute", "60").catch((error) => error)
    assert.strictEqual(code, 1)
    assert.match(
      stderr,
      /^--kills-per-minute: a store in memory dies with its server; choose sqlite, postgres or redis$/m
    )
  })

  it("that is killed leaves neither processes nor files behind", async () => {
    const directory = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
    const demo = spawn(process.execPath, [main, "--store", "sqlite", "--servers", "2", "--messages", "1000000"], {
      env: { ...process.env, TMPDIR: directory },
      stdio: ["ignore", "pipe", "pipe"]
    })
    try {
      await firstProgress(demo)
      assert.isNotEmpty(readdirSync(directory))
      demo.kill("SIGKILL")
      // Its servers and keepers have its standard error: that ends when the last of them is gone.
      await once(demo.stderr.resume(), "close")
      assert.deepStrictEqual(readdirSync(directory), [])
    } finally {
      demo.kill("SIGKILL")
      rmSync(directory, { recursive: true, force: true })
    }
  })
})

/** Until it shows that messages are handled. */
const firstProgress = async ({ stdout }: ChildProcess): Promise<void> => {
  if (stdout === null) return
  for await (const line of createInterface({ input: stdout })) if (line.includes("handled")) return
}
