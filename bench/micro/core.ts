/**
 * What a message costs in the core, without Effect, sockets or handlers: outbox, batch, decode, inbox and ack, in turns
 * of 512 messages of 128 bytes as the shell takes them. Payloads come serialized, and go out parsed.
 */
import { type Draft, Outbox } from "../../src/core/Outbox.ts"
import { bulkFrameBytes, defaultMaxPayloadBytes, defaultWindow } from "../../src/core/Protocol.ts"
import { Session } from "../../src/core/Session.ts"
import { Violation } from "../../src/core/Violation.ts"
import { type Figure, measure, type MicroOptions, runAlone, type Sample } from "./measure.ts"

const batch = 512
const epoch = "01890b1e-7a3c-7000-8000-00000000cafe"

export const core = (options: MicroOptions): Promise<ReadonlyArray<Figure>> => {
  const turns = Math.max(50, Math.round(1_500 * options.size))
  return measure({
    repetitions: options.repetitions,
    units: {
      "all of it": "ns/message",
      "outbox append": "ns/message",
      "outbox read, compose": "ns/message",
      "decode, inbox": "ns/message",
      "handled, compose ack, take ack, free": "ns/message",
      "of decode: JSON.parse alone": "ns/message"
    }
  }, () => sample(turns))
}

const sample = (turns: number): Sample => {
  const sender = openSession("server")
  const receiver = openSession("client")
  const outbox = new Outbox(epoch)
  receiver.inbox.adopt(epoch, 0)
  const drafts = Array.from({ length: batch }, (_, i) => makeDraft(i))
  const spent = { append: 0, compose: 0, decode: 0, ack: 0, parse: 0 }
  let handled = 0

  for (let turn = 0; turn < turns; turn++) {
    const { flow } = sender
    if (flow === undefined) throw new Error("not open")
    const start = performance.now()
    for (let i = 0; i < batch; i++) outbox.append(drafts[i] as Draft) // in bounds
    const appended = performance.now()
    const frames: Array<string> = []
    for (let more = true; more;) {
      const read = outbox.read(flow.sent, { maxMessages: flow.roomMessages, maxBytes: bulkFrameBytes }, 0)
      frames.push(...sender.compose(read.slots, flow))
      more = read.more
    }
    const composed = performance.now()
    for (const frame of frames) {
      const actions = valid(receiver.receive(frame, frame.length))
      for (const action of actions) if (action.t === "deliver") handled += action.messages.length
    }
    const decoded = performance.now()
    receiver.handled(epoch, handled, batch)
    const ack = receiver.composeAck() ?? ""
    for (const action of valid(sender.receive(ack, ack.length))) if (action.t === "acked") outbox.ack(action.handled)
    const acked = performance.now()
    for (const frame of frames) JSON.parse(frame)
    spent.append += appended - start
    spent.compose += composed - appended
    spent.decode += decoded - composed
    spent.ack += acked - decoded
    spent.parse += performance.now() - acked
  }

  if (handled !== turns * batch || outbox.messages !== 0) throw new Error(`${handled} of ${turns * batch} were handled`)
  const nanos = (millis: number) => millis * 1e6 / handled
  return {
    "all of it": nanos(spent.append + spent.compose + spent.decode + spent.ack),
    "outbox append": nanos(spent.append),
    "outbox read, compose": nanos(spent.compose),
    "decode, inbox": nanos(spent.decode),
    "handled, compose ack, take ack, free": nanos(spent.ack),
    "of decode: JSON.parse alone": nanos(spent.parse)
  }
}

const openSession = (role: "server" | "client"): Session => {
  const session = new Session({ role, window: defaultWindow, maxPayload: defaultMaxPayloadBytes })
  session.open(defaultWindow, { received: 0, handled: 0, pending: { messages: 0, bytes: 0 } }, 0)
  return session
}

const makeDraft = (i: number): Draft => {
  const message = { i, connection: 0, at: 1_763_950_000_000.125, kind: "quote", text: "" }
  const payload = JSON.stringify({ ...message, text: "x".repeat(128 - JSON.stringify(message).length) })
  return { payload, bytes: 128, id: undefined, trace: undefined, enqueuedAt: 0, expiresAt: Infinity }
}

const valid = <A>(result: A | Violation): A => {
  if (result instanceof Violation) throw new Error(result.detail)
  return result
}

await runAlone(import.meta, "core, a message of 128 bytes in turns of 512", core)
