/** The client of the same chat: each line of its input is said, in its order, also those from while it was away. */
import { createInterface } from "node:readline"
import { ResilientClient } from "../../src/promise/index.ts"

interface Line {
  readonly from: string
  readonly text: string
}

const client = await ResilientClient.connect<Line, string>(`ws://127.0.0.1:${process.env["PORT"] ?? 8080}`, {
  headers: { authorization: `Bearer ${process.env["TOKEN"]}` },
  reconnect: { base: "100 millis", cap: "5 seconds" },
  wait: false,
  onMessage: ({ from, text }) => console.log(`${from}: ${text}`)
})
client.on("stateChange", ({ _tag }) => {
  console.log(_tag.toLowerCase())
  if (_tag === "Stopped") input.close()
})

const input = createInterface({ input: process.stdin })
process.once("SIGTERM", () => input.close())
for await (const text of input) await client.send(text)
await client.close()
