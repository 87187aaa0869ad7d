/** A member of the lobby: each line of its input is said there. */
import { createInterface } from "node:readline"
import { ResilientClient } from "../../src/promise/index.ts"

type ToServer =
  | { readonly type: "join"; readonly room: string }
  | { readonly type: "say"; readonly room: string; readonly text: string }

type ToClient = { readonly type: "said"; readonly room: string; readonly from: string; readonly text: string }

const client = await ResilientClient.connect<ToClient, ToServer>(`ws://127.0.0.1:${process.env["PORT"] ?? 8080}`, {
  headers: { authorization: `Bearer ${process.env["TOKEN"]}` },
  reconnect: { base: "100 millis", cap: "5 seconds" },
  wait: false,
  onMessage: ({ from, room, text }) => console.log(`${room}: ${from}: ${text}`)
})
await client.send({ type: "join", room: "lobby" })
client.on("stateChange", async (state) => {
  console.log(state._tag.toLowerCase())
  if (state._tag === "Stopped") input.close()
  // The server has forgotten the session, and with it who is in which room; or this client has, and asks again.
  const isForgotten = state._tag === "Connected" && state.result === "fresh" && state.reason !== "new"
  if (isForgotten) await client.send({ type: "join", room: "lobby" })
})

const input = createInterface({ input: process.stdin })
process.once("SIGTERM", () => input.close())
for await (const text of input) {
  const receipt = await client.send({ type: "say", room: "lobby", text })
  receipt.handled().then(
    () => console.log(`done: ${text}`),
    ({ reason }) => console.log(`not done, ${reason}: ${text}`)
  )
}
await client.close()
