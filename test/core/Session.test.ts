import { describe, expect, it } from "@effect/vitest"
import { Schema } from "effect"
import { encode, encodeAck } from "../../src/core/Codec.ts"
import type { Flow } from "../../src/core/Flow.ts"
import type { Frame, InboxPosition } from "../../src/core/Frame.ts"
import { Inbox } from "../../src/core/Inbox.ts"
import type { Slot } from "../../src/core/Outbox.ts"
import { defaultWindow, type Window } from "../../src/core/Protocol.ts"
import { type Action, maxFrameBytes, resumeInbox, resumeOutbox, Session } from "../../src/core/Session.ts"
import { utf8Length } from "../../src/core/utf8.ts"
import { Violation } from "../../src/core/Violation.ts"
import { fixed, int } from "../support/coreArbitraries.ts"

const zero: InboxPosition = { epoch: "E", received: 0, handled: 0, failed: [], pending: { messages: 0, bytes: 0 } }

/** A session with an open connection, at the start of both logs. */
const opened = (
  role: "server" | "client" = "server",
  window: Window = defaultWindow
): { readonly session: Session; readonly flow: Flow } => {
  const session = new Session({ role, window, maxPayload: 1000 })
  session.inbox.adopt("E", 0)
  session.open(window, zero, 0)
  if (session.flow === undefined) throw new Error("open opens a flow")
  return { session, flow: session.flow }
}

const receive = (session: Session, frame: Frame): ReadonlyArray<Action> | Violation => {
  const text = encode(frame)
  return session.receive(text, utf8Length(text))
}

const actions = (session: Session, text: string): ReadonlyArray<Action> => {
  const result = session.receive(text, utf8Length(text))
  if (result instanceof Violation) throw new Error(`${result.code}: ${result.detail}`)
  return result
}

const message = (offset: number, fields: { payload?: string; id?: string; trace?: string } = {}): Slot => {
  const payload = fields.payload ?? String(offset)
  return {
    kind: "message",
    offset,
    payload,
    bytes: utf8Length(payload),
    id: fields.id,
    trace: fields.trace,
    enqueuedAt: 0,
    expiresAt: Infinity
  }
}

const gap = (offset: number, end: number): Slot => ({ kind: "gap", offset, end, reason: "expired" })

const messages = (count: number, fields: { payload?: string; id?: string } = {}): Array<Slot> =>
  Array.from({ length: count }, (_, i) => message(i + 1, fields))

describe("Session", () => {
  describe("receiving", () => {
    it("takes of an ack's failures those that it can be about, each once, however many it lists", () => {
      const { session } = opened()
      session.compose(messages(10), session.flow as Flow)
      const failures = (...offsets: Array<number>) => offsets.map((offset) => [offset, "failed"] as const)
      const many = failures(...Array.from({ length: 1_000 }, (_, n) => n + 1), 2, 2, 1)
      const first = actions(session, JSON.stringify({ t: "ack", a: [10, 3], f: many }))
      expect(first).toEqual([{ t: "acked", handled: 3, failed: failures(1, 2, 3) }])
      const second = actions(session, JSON.stringify({ t: "ack", a: [10, 5], f: failures(1, 3, 5, 6) }))
      expect(second).toEqual([{ t: "acked", handled: 5, failed: failures(5) }])
      expect(actions(session, JSON.stringify({ t: "ack", a: [10, 5], f: failures(5, 6) }))).toEqual([])
    })

    it("takes no frame before the handshake, nor after the connection is lost", () => {
      const session = new Session({ role: "server", window: defaultWindow, maxPayload: 1000 })
      expect(receive(session, { t: "ping" })).toMatchObject({ code: "unexpected" })
      session.open(defaultWindow, zero, 0)
      expect(receive(session, { t: "ping" })).toHaveLength(1)
      session.close()
      expect(receive(session, { t: "ping" })).toMatchObject({ code: "unexpected" })
    })

    it("delivers a batch, with its meta", () => {
      const { session } = opened()
      expect(receive(session, { t: "batch", o: 1, m: ["a", "b"], x: { 1: { id: "B" } } })).toEqual([
        { t: "deliver", epoch: "E", first: 1, messages: ["a", "b"], meta: [undefined, { id: "B" }] }
      ])
      expect(session.ackDue).toBe(true)
    })

    it("delivers of a repeated batch only what is new, with the meta of just that", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      expect(receive(session, { t: "batch", o: 2, m: ["b", "c"], x: { 0: { id: "B" }, 1: { id: "C" } } })).toEqual([
        { t: "deliver", epoch: "E", first: 3, messages: ["c"], meta: [{ id: "C" }] }
      ])
    })

    it("delivers nothing of a batch that it has, and acknowledges it again", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      session.composeAck()
      expect(receive(session, { t: "batch", o: 1, m: ["a"] })).toEqual([])
      expect(session.composeAck()).toBe(encodeAck(1, 0, []))
    })

    it("tells of a gap once, and only of what it does not have", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      const expected = { t: "gap", epoch: "E", first: 2, end: 5, reason: "overflow" }
      expect(receive(session, { t: "gap", o: 1, e: 5, reason: "overflow" })).toEqual([expected])
      expect(session.composeAck()).toBe(encodeAck(5, 0, []))
      expect(receive(session, { t: "gap", o: 1, e: 5, reason: "overflow" })).toEqual([])
      expect(session.composeAck()).toBe(encodeAck(5, 0, []))
      expect(receive(session, { t: "gap", o: 7, e: 8, reason: "overflow" })).toMatchObject({ code: "future" })
    })

    it("passes on what the peer handled, once", () => {
      const { flow, session } = opened()
      session.compose(messages(3), flow)
      expect(receive(session, { t: "ack", a: [3, 2], f: [[2, "failed"]] })).toEqual([
        { t: "acked", handled: 2, failed: [[2, "failed"]] }
      ])
      expect(receive(session, { t: "ack", a: [3, 2] })).toEqual([])
      expect(receive(session, { t: "batch", o: 1, m: [0], a: [3, 3] })).toMatchObject([
        { t: "acked", handled: 3, failed: [] },
        { t: "deliver" }
      ])
    })

    it("answers a ping with its position", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      session.handled("E", 1, 1)
      expect(receive(session, { t: "ping" })).toEqual([{ t: "reply", frame: `{"t":"pong","a":[2,1]}` }])
    })

    it("takes a pong for an ack", () => {
      const { flow, session } = opened()
      session.compose(messages(1), flow)
      expect(receive(session, { t: "pong", a: [1, 1] })).toEqual([{ t: "acked", handled: 1, failed: [] }])
    })

    it("does not say in a pong that it handled what failed, before an ack has told so", () => {
      const { session } = opened()
      const pong = () => receive(session, { t: "ping" })
      receive(session, { t: "batch", o: 1, m: ["a", "b", "c"] })
      session.handled("E", 1, 1)
      expect(pong()).toEqual([{ t: "reply", frame: `{"t":"pong","a":[3,1]}` }])
      session.inbox.fail(2, "failed")
      session.handled("E", 3, 2)
      expect(pong()).toEqual([{ t: "reply", frame: `{"t":"pong","a":[3,1]}` }])
      expect(session.composeAck()).toBe(encodeAck(3, 3, [[2, "failed"]]))
      expect(pong()).toEqual([{ t: "reply", frame: `{"t":"pong","a":[3,3]}` }])
    })

    it("forgets failures that the sender has seen", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      session.inbox.fail(1, "failed")
      expect(receive(session, { t: "seen", o: 1 })).toMatchObject({ code: "future" })
      session.handled("E", 1, 1)
      expect(receive(session, { t: "seen", o: 1 })).toEqual([])
      expect(session.inbox.unconfirmed).toBe(0)
    })

    it("refuses more messages of a sender that confirms no failures", () => {
      const { session } = opened("server", { messages: 1, bytes: 1000 })
      for (let offset = 1; offset <= 5; offset++) {
        expect(receive(session, { t: "batch", o: offset, m: [0] })).toHaveLength(1)
        session.inbox.fail(offset, "failed")
        session.handled("E", offset, 1)
      }
      expect(receive(session, { t: "batch", o: 6, m: [0] })).toMatchObject({ code: "window" })
      receive(session, { t: "seen", o: 5 })
      expect(receive(session, { t: "batch", o: 6, m: [0] })).toHaveLength(1)
    })

    it("hands on volatile messages, ends and rejections", () => {
      const { session } = opened()
      expect(receive(session, { t: "volatile", m: [1, 2] })).toEqual([{ t: "volatile", messages: [1, 2] }])
      expect(receive(session, { t: "end" })).toEqual([{ t: "end" }])
      expect(receive(session, { t: "reject", code: "replaced", detail: "d" })).toHaveLength(1)
    })

    it("lets only servers drain, and only clients renew their token", () => {
      const drain = { t: "drain", deadline: 1, window: 1 } as const
      const auth = { t: "auth", auth: "token" } as const
      expect(receive(opened("client").session, drain)).toEqual([drain])
      expect(receive(opened("server").session, drain)).toMatchObject({ code: "unexpected" })
      expect(receive(opened("server").session, auth)).toEqual([auth])
      expect(receive(opened("client").session, auth)).toMatchObject({ code: "unexpected" })
    })

    it("tells nobody of what was handled of a log that has been replaced", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      session.composeAck()
      session.inbox.adopt("F", 10)
      session.handled("E", 1, 1)
      expect(session.inbox.handled).toBe(10)
      expect(session.ackDue).toBe(false)
    })
  })

  describe("sending", () => {
    it("makes frames of slots in their order, and counts them as sent", () => {
      const { flow, session } = opened()
      const slots = [message(1), message(2), gap(3, 5), message(6, { id: "é", trace: "t" })]
      expect(session.compose(slots, flow)).toEqual([
        `{"t":"batch","o":1,"m":[1,2]}`,
        `{"t":"gap","o":3,"e":5,"reason":"expired"}`,
        `{"t":"batch","o":6,"m":[6],"x":{"0":{"id":"é","trace":"t"}}}`
      ])
      expect(flow.sent).toBe(6)
    })

    it("sends a due ack with the first batch, and only once", () => {
      const { flow, session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a"] })
      expect(session.compose([message(1), gap(2, 2), message(3)], flow)).toEqual([
        `{"t":"batch","o":1,"m":[1],"a":[1,0]}`,
        `{"t":"gap","o":2,"e":2,"reason":"expired"}`,
        `{"t":"batch","o":3,"m":[3]}`
      ])
      expect(session.composeAck()).toBeUndefined()
    })

    it("tells of failures with acks of their own, again on each connection, until they are seen", () => {
      const { flow, session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      session.inbox.fail(1, "undecodable")
      session.handled("E", 2, 2)
      expect(session.compose([message(1)], flow)).toEqual([`{"t":"batch","o":1,"m":[1]}`])
      expect(session.composeAck()).toBe(encodeAck(2, 2, [[1, "undecodable"]]))
      expect(session.composeAck()).toBeUndefined()
      session.close()
      expect(session.inbox.position.failed).toEqual([[1, "undecodable"]])
    })

    it("owes an ack after a handshake that announced less than was handled since", () => {
      const { session } = opened()
      receive(session, { t: "batch", o: 1, m: ["a", "b"] })
      session.handled("E", 2, 2)
      session.open(defaultWindow, zero, 2)
      expect(session.composeAck()).toBeUndefined()
      session.open(defaultWindow, zero, 1)
      expect(session.composeAck()).toBe(encodeAck(2, 2, []))
    })

    it.each([0, 3, 9])(
      "tells of failures in a log taken up at %i by a handshake that announced 5 of another",
      (start) => {
        const { session } = opened()
        session.inbox.adopt("F", start)
        session.open(defaultWindow, zero, 5)
        expect(session.ackDue).toBe(false)
        receive(session, { t: "batch", o: start + 1, m: ["a"] })
        session.inbox.fail(start + 1, "failed")
        session.handled("F", start + 1, 1)
        expect(receive(session, { t: "ping" })).toEqual([
          { t: "reply", frame: `{"t":"pong","a":[${start + 1},${start}]}` }
        ])
        expect(session.composeAck()).toBe(encodeAck(start + 1, start + 1, [[start + 1, "failed"]]))
      }
    )

    it("stops where the window's bytes end, and goes on from there", () => {
      const { flow, session } = opened("server", { messages: 100, bytes: 1000 })
      const slots = messages(30, { payload: `"${"x".repeat(50)}"` })
      const sent: Array<number> = []
      while (flow.sent < 30) {
        const frames = session.compose(slots.slice(flow.sent), flow)
        expect(frames).toHaveLength(1)
        expect(session.compose(slots.slice(flow.sent), flow)).toEqual([])
        sent.push(flow.sent)
        flow.ack(flow.sent, flow.sent)
      }
      expect(sent.length).toBeGreaterThan(1)
    })

    it("sends a message alone that is larger than the window", () => {
      const { flow, session } = opened("server", { messages: 100, bytes: 100 })
      const large = message(1, { payload: `"${"x".repeat(900)}"` })
      expect(session.compose([large, message(2)], flow)).toHaveLength(1)
      expect(flow.sent).toBe(1)
    })

    it("makes no frame that is larger than a receiver takes, however long the ids are", () => {
      const { flow, session } = opened("server", { messages: 5000, bytes: 10_000_000 })
      const slots = messages(1000, { id: "\u{1F600}".repeat(128) })
      const frames = session.compose(slots, flow)
      expect(flow.sent).toBe(1000)
      for (const frame of frames) expect(utf8Length(frame)).toBeLessThanOrEqual(maxFrameBytes(0))
    })

    it("makes no ack that is larger than a receiver takes, however much failed", () => {
      const count = 10_000
      const window = { messages: count, bytes: 10_000_000 }
      const receiver = opened("client", window)
      const sender = opened("server", window)
      for (const frame of sender.session.compose(messages(count), sender.flow)) actions(receiver.session, frame)
      for (let offset = 1; offset <= count; offset++) receiver.session.inbox.fail(offset, "undecodable")
      receiver.session.handled("E", count, count)
      let failed = 0
      while (receiver.session.ackDue) {
        const ack = receiver.session.composeAck() ?? ""
        expect(utf8Length(ack)).toBeLessThanOrEqual(maxFrameBytes(0))
        for (const action of actions(sender.session, ack)) {
          if (action.t !== "acked") continue
          failed += action.failed.length
          expect(action.handled).toBe(failed) // nothing is acknowledged before its failure is told
        }
        // A hello now would tell of no more than an ack does, and of nothing that was told before as still to come.
        const { announced } = receiver.session.inbox
        expect(announced.failed.length).toBeLessThanOrEqual(1024)
        expect(announced.handled).toBe(failed)
        expect(receiver.session.ackDue).toBe(false) // until this has been seen
        actions(receiver.session, `{"t":"seen","o":${failed}}`)
      }
      expect(failed).toBe(count)
    })

    const units = ["a", "\"", "\\", "\u0000", "\n", "é", "€", "\u{1F600}", "\ud800", "\udc00"]
    const Text = Schema.Array(int(0, units.length - 1))
    const textOf = (indexes: ReadonlyArray<number>): string => indexes.map((index) => units[index] ?? "").join("")
    const idOf = (indexes: ReadonlyArray<number>): string =>
      textOf(indexes).slice(0, 8).toWellFormed().replaceAll("\u0000", "")
    const AnySlot = Schema.Struct({
      kind: Schema.Literals(["message", "message", "message", "gap"]),
      text: Text,
      id: Text,
      trace: Text
    })

    it.prop(
      "composes what the other side takes as it was meant, and both count the same bytes",
      [Schema.Array(AnySlot), Schema.Struct({ messages: int(1, 20), bytes: int(1, 1000) })],
      ([plan, window]) => {
        const sender = opened("server", window)
        const receiver = opened("client", window)
        const slots = plan.map((slot, i): Slot => {
          if (slot.kind === "gap") return gap(i + 1, i + 1)
          const [id, trace] = [idOf(slot.id), idOf(slot.trace)]
          return message(i + 1, {
            payload: JSON.stringify(textOf(slot.text)),
            ...(id === "" ? {} : { id }),
            ...(trace === "" ? {} : { trace })
          })
        })
        let delivered = 0
        while (delivered < slots.length) {
          const limit = slots.slice(delivered, delivered + sender.flow.roomMessages)
          for (const frame of sender.session.compose(limit, sender.flow)) {
            for (const action of actions(receiver.session, frame)) {
              if (action.t === "gap") {
                expect(action).toEqual({ t: "gap", epoch: "E", first: ++delivered, end: delivered, reason: "expired" })
              } else if (action.t === "deliver") {
                action.messages.forEach((payload, i) => {
                  const slot = slots[delivered++]
                  if (slot?.kind !== "message") return expect.fail("a message where a gap was")
                  expect(payload).toBe(JSON.parse(slot.payload))
                  expect(action.first + i).toBe(slot.offset)
                  expect({ id: action.meta?.[i]?.id, trace: action.meta?.[i]?.trace })
                    .toEqual({ id: slot.id, trace: slot.trace })
                })
              }
            }
          }
          const { bytes, messages } = receiver.session.inbox.position.pending
          expect(sender.flow.roomMessages).toBe(window.messages - messages)
          expect(sender.flow.roomBytes).toBe(bytes === 0 ? Infinity : window.bytes - bytes)
          receiver.session.handled("E", delivered, messages)
          actions(sender.session, receiver.session.composeAck() ?? "")
        }
        expect(sender.flow.roomBytes).toBe(Infinity)
      },
      fixed(1000, 30)
    )
  })

  describe("resuming", () => {
    const out = { epoch: "E", acked: 3, last: 9 }
    const peer: InboxPosition = { ...zero, received: 7, handled: 5 }
    const at = (epoch: string, received: number, handled: number): Inbox => {
      const inbox = new Inbox()
      inbox.adopt(epoch, handled)
      inbox.acceptGap(handled + 1, received)
      return inbox
    }

    it("goes on with a peer that has a position in our log", () => {
      expect(resumeOutbox(out, peer)).toEqual({ continued: true, position: peer })
      expect(resumeOutbox(out, { ...peer, received: 9, handled: 3 })).toMatchObject({ continued: true })
    })

    it("takes note only of failures that are settled: the others may yet be handled", () => {
      const failed = [[4, "failed"], [5, "undecodable"], [6, "failed"]] as const
      expect(resumeOutbox(out, { ...peer, failed })).toEqual({
        continued: true,
        position: { ...peer, failed: [[4, "failed"], [5, "undecodable"]] }
      })
    })

    it("starts anew, from what was handled, with a peer that has none, or one before that", () => {
      const start = { continued: false, position: { ...zero, received: 3, handled: 3 } }
      expect(resumeOutbox(out, { ...peer, epoch: null })).toEqual(start)
      expect(resumeOutbox(out, { ...peer, epoch: "F" })).toEqual(start)
      expect(resumeOutbox(out, { ...peer, handled: 2 })).toEqual(start)
    })

    it("refuses a peer that received what was never accepted here", () => {
      expect(resumeOutbox(out, { ...peer, received: 10 })).toMatchObject({ code: "future" })
    })

    it("keeps its position in a log that goes on, and forgets the failures that were seen", () => {
      const inbox = at("E", 7, 5)
      inbox.fail(3, "failed")
      inbox.fail(4, "failed")
      expect(resumeInbox(inbox, out)).toBe(true)
      expect(inbox.position).toMatchObject({ epoch: "E", received: 7, handled: 5, failed: [[4, "failed"]] })
    })

    it("starts anew in a log that it does not know, or that has forgotten what comes next", () => {
      for (const inbox of [new Inbox(), at("F", 7, 5), at("E", 7, 2)]) {
        expect(resumeInbox(inbox, out)).toBe(false)
        expect(inbox.position).toEqual({ ...zero, received: 3, handled: 3 })
      }
    })

    it("refuses a log that ends before what was received of it, and stays as it was", () => {
      const inbox = at("E", 10, 10)
      expect(resumeInbox(inbox, out)).toMatchObject({ code: "future" })
      expect(inbox.position).toMatchObject({ received: 10, handled: 10 })
    })
  })
})
