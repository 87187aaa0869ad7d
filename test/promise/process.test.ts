/** Processes that use this face: they end by themselves, and nothing in them is left unhandled. */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type ProgramName, programPath } from "../support/sharedByRun.ts"

/** Runs a program of the tests' until it ends by itself; gives what it says last. */
const run = async (name: ProgramName, ...args: ReadonlyArray<string>) => {
  const path = await programPath(name)
  return new Promise<Readonly<Record<string, unknown>>>((resolve, reject) => {
    execFile(process.execPath, [path, ...args], { timeout: 100_000 }, (error, stdout, stderr) => {
      const last = stdout.trim().split("\n").at(-1) ?? ""
      if (error === null) resolve(JSON.parse(last) as Readonly<Record<string, unknown>>)
      else reject(new Error(`${error.killed === true ? "it did not end by itself" : error.code}: ${stdout}${stderr}`))
    })
  })
}

describe("a process that uses this face only", () => {
  const expected = {
    endings: Array(3).fill("resilient-websocket/ShutdownError"),
    same: true,
    addsUp: true,
    clientAddsUp: true,
    inOrder: true
  }

  it("ends by itself after gracefulShutdown, in the midst of traffic and called twice", async () => {
    const { got, endings, ...rest } = await run("promiseExit")
    assert.deepStrictEqual({ ...rest, endings }, {
      ...expected,
      endings: [
        "resilient-websocket/ShutdownError",
        "resilient-websocket/ShutdownError",
        "resilient-websocket/SessionNotFoundError"
      ]
    })
    assert.isAbove(Number(got), 0)
  })

  it("does so with a durable store, too", async () => {
    const folder = mkdtempSync(join(tmpdir(), "resilient-websocket-"))
    try {
      const { same, addsUp, inOrder } = await run("promiseExit", "sqlite", join(folder, "store.db"))
      assert.deepStrictEqual({ same, addsUp, inOrder }, { same: true, addsUp: true, inOrder: true })
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })

  it("has no unhandled rejection when every background part and every function of the user's fails", async () => {
    assert.deepStrictEqual(await run("promiseFaults"), { unhandled: 0, gaveUp: true, tried: true })
  })
})
