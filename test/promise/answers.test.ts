/** Handlers that answer while their manager shuts down. */
import { assert, describe, it } from "@effect/vitest"
import { ResilientClient, ShutdownError } from "resilient-websocket/promise"
import { listen, makeManager, rejection, turn, until } from "../support/promise.ts"

describe("a shutdown", () => {
  it("takes what handlers send, by reply or by the manager, and from nobody else", async () => {
    let go = (): void => {}
    const opened = new Promise<void>((resolve) => {
      go = resolve
    })
    let begun = 0
    const manager = await makeManager({
      handlerRetry: { attempts: 1 },
      onMessage: async (message, { reply, session }) => {
        begun++
        await opened
        await reply(`${String(message)} by reply`)
        await manager.sendWithReceipt(session, `${String(message)} by send`, { critical: true })
      }
    })
    const { url } = await listen((ws) => manager.registerConnection(ws, { sessionId: "alice" }))
    const got: Array<unknown> = []
    const letters: Array<unknown> = []
    const client = await ResilientClient.connect(url, {
      log: false,
      onMessage: (message) => void got.push(message),
      on: { deadLetter: (letter) => letters.push(letter) }
    })
    const receipts = await Promise.all(["a", "b", "c"].map((message) => client.send(message)))
    await until("the first is being handled", () => begun === 1)
    const closing = manager.gracefulShutdown()
    await turn()
    assert.instanceOf(await rejection(manager.send("alice", "from outside", { critical: true })), ShutdownError)
    go()
    await closing
    for (const { handled } of receipts) await handled()
    assert.deepStrictEqual(got, ["a", "b", "c"].flatMap((message) => [`${message} by reply`, `${message} by send`]))
    assert.deepStrictEqual(letters, [])
    await client.close()
  })
})
