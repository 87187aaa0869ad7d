/**
 * One side of a measurement: loads the peer that it is told and does what main asks, until main says that it is over
 * or goes away. Not meant to be started by hand.
 */
import { endAll } from "./harness/endings.ts"
import type { Request, Response } from "./harness/Side.ts"
import { makeSide } from "./harness/Side.ts"
import { load, peerNames } from "./peers/index.ts"

const send = (response: Response): void => {
  process.send?.(response, undefined, undefined, () => {}) // main may be gone
}

const name = peerNames.find((name) => name === process.argv[2])
if (name === undefined || process.send === undefined) throw new Error("bench/child.ts is started by bench/main.ts")

// Main is done with this process, or gone.
process.once("disconnect", () => void endAll().finally(() => process.exit(0)))

const side = makeSide(await load(name))

process.on("message", (request: Request) => {
  void answer(request)
})

const answer = async ({ args, id, module, name }: Request): Promise<void> => {
  try {
    const functions: Record<string, unknown> = await import(module)
    const called = functions[name]
    if (typeof called !== "function") throw new Error(`${module} has no ${name}`)
    send({ id, value: await called(side, args) })
  } catch (error) {
    send({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  }
}
