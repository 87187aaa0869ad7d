/** Runs the vectors of `test/conformance/` against the core, as anybody's implementation of PROTOCOL.md would. */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { readFileSync } from "node:fs"
import {
  decode,
  encode,
  encodeAck,
  encodeAckFields,
  encodeBatch,
  encodeMeta,
  encodeVolatile
} from "../src/core/Codec.ts"
import type { Flow } from "../src/core/Flow.ts"
import { Inbox } from "../src/core/Inbox.ts"
import { Liveness } from "../src/core/Liveness.ts"
import type { Slot } from "../src/core/Outbox.ts"
import { closeCodeOf, isDoubtful, isRetryable } from "../src/core/Protocol.ts"
import { type Action, resumeInbox, resumeOutbox, Session } from "../src/core/Session.ts"
import { isRejection } from "../src/core/Text.ts"
import { utf8Length } from "../src/core/utf8.ts"
import { Violation } from "../src/core/Violation.ts"

const specification = readFileSync(new URL("../PROTOCOL.md", import.meta.url), "utf8")
const sections = new Set(specification.split("\n").map((line) => /^#+ (§\S+)/.exec(line)?.[1]))

// --- the shape of the files

const Code = Schema.Literals(["malformed", "tooLarge", "tooDeep", "unexpected", "future", "regress", "window"])
const Failure = Schema.Tuple([
  Schema.Number,
  Schema.Union([Schema.Literals(["failed", "undecodable"]), Schema.declare(isRejection)])
])
const Window = Schema.Struct({ messages: Schema.Number, bytes: Schema.Number })
const Pending = Schema.Struct({ messages: Schema.Number, bytes: Schema.Number })
const OutboxPosition = Schema.Struct({ epoch: Schema.String, acked: Schema.Number, last: Schema.Number })
const InboxPosition = Schema.Struct({
  epoch: Schema.NullOr(Schema.String),
  received: Schema.Number,
  handled: Schema.Number,
  failed: Schema.Array(Failure),
  pending: Pending
})
const Frame = Schema.Record(Schema.String, Schema.Unknown)
const Text = Schema.Array(Schema.Union([Schema.String, Schema.Struct({ repeat: Schema.String, times: Schema.Number })]))
const GapReason = Schema.Literals(["expired", "overflow", "fresh", "sessionEnded"])

const named = { name: Schema.String, spec: Schema.String }

const DecodeCase = Schema.Union([
  Schema.Struct({ ...named, frame: Frame, expect: Schema.Union([Schema.Literal("valid"), Code]) }),
  Schema.Struct({ ...named, text: Text, expect: Schema.Union([Schema.Literal("valid"), Code]) })
])

const encoded = { ...named, text: Schema.String, bytes: Schema.Number }
const EncodeCase = Schema.Union([
  Schema.Struct({
    ...encoded,
    batch: Schema.Struct({
      first: Schema.Number,
      messages: Schema.Array(
        Schema.Struct({
          payload: Schema.String,
          id: Schema.optionalKey(Schema.String),
          trace: Schema.optionalKey(Schema.String)
        })
      ),
      ack: Schema.optionalKey(Schema.Tuple([Schema.Number, Schema.Number]))
    })
  }),
  Schema.Struct({
    ...encoded,
    ack: Schema.Struct({ received: Schema.Number, handled: Schema.Number, failed: Schema.Array(Failure) })
  }),
  Schema.Struct({ ...encoded, volatile: Schema.Array(Schema.String) }),
  Schema.Struct({ ...encoded, frame: Frame })
])

const HandshakeCase = Schema.Union([
  Schema.Struct({
    ...named,
    out: OutboxPosition,
    peerInbox: InboxPosition,
    expect: Schema.Union([
      Schema.Struct({ continued: Schema.Boolean, position: InboxPosition }),
      Schema.Struct({ violation: Code })
    ])
  }),
  Schema.Struct({
    ...named,
    inbox: InboxPosition,
    peerOutbox: OutboxPosition,
    expect: Schema.Union([
      Schema.Struct({ continued: Schema.Boolean, position: InboxPosition }),
      Schema.Struct({ violation: Code })
    ])
  })
])

const LivenessCase = Schema.Struct({
  ...named,
  interval: Schema.Number,
  timeout: Schema.Number,
  steps: Schema.Array(Schema.Union([
    Schema.Struct({ heard: Schema.Number }),
    Schema.Struct({ tick: Schema.Number, verdict: Schema.Literals(["alive", "probe", "dead"]) })
  ]))
})

const CloseCase = Schema.Struct({
  ...named,
  reject: Schema.optionalKey(Schema.Literals([
    "draining",
    "overloaded",
    "internal",
    "replaced",
    "unauthorized",
    "forbidden",
    "protocol",
    "version"
  ])),
  code: Schema.Number,
  comesBack: Schema.Boolean,
  doubtful: Schema.optional(Schema.Boolean)
})

const ExpectedAction = Schema.Union([
  Schema.Struct({
    deliver: Schema.Struct({
      first: Schema.Number,
      payloads: Schema.Array(Schema.Unknown),
      meta: Schema.optionalKey(Schema.Array(Schema.NullOr(Schema.Unknown)))
    })
  }),
  Schema.Struct({ gap: Schema.Struct({ first: Schema.Number, end: Schema.Number, reason: GapReason }) }),
  Schema.Struct({ volatile: Schema.Array(Schema.Unknown) }),
  Schema.Struct({ acked: Schema.Struct({ handled: Schema.Number, failed: Schema.Array(Failure) }) }),
  Schema.Struct({ reply: Frame }),
  Schema.Struct({ frame: Frame })
])

const Expected = Schema.Union([Schema.Literal("any"), Schema.Array(ExpectedAction)])
const Many = Schema.Struct({ first: Schema.Number, count: Schema.Number })

const Step = Schema.Union([
  Schema.Struct({
    open: Schema.Struct({
      window: Window,
      position: Schema.Struct({ received: Schema.Number, handled: Schema.Number, pending: Pending }),
      announced: Schema.Number
    })
  }),
  Schema.Struct({ lost: Schema.Literal(true) }),
  Schema.Struct({ adopt: Schema.Struct({ epoch: Schema.String, at: Schema.Number }) }),
  Schema.Struct({ receive: Frame, actions: Expected }),
  Schema.Struct({ receive: Frame, violation: Code }),
  Schema.Struct({ receiveText: Text, actions: Expected }),
  Schema.Struct({ receiveText: Text, violation: Code }),
  Schema.Struct({ receiveMany: Many }),
  Schema.Struct({ failMany: Many }),
  Schema.Struct({ handled: Schema.Struct({ epoch: Schema.String, offset: Schema.Number, messages: Schema.Number }) }),
  Schema.Struct({ fail: Failure }),
  Schema.Struct({
    send: Schema.Array(Schema.Union([
      Schema.Struct({ offset: Schema.Number, payload: Schema.String, id: Schema.optionalKey(Schema.String) }),
      Schema.Struct({ offset: Schema.Number, end: Schema.Number, reason: GapReason })
    ])),
    frames: Schema.Array(Frame)
  }),
  Schema.Struct({ ackNow: Schema.NullOr(Frame) }),
  Schema.Struct({
    ackNowMany: Schema.Struct({ received: Schema.Number, handled: Schema.Number, failures: Schema.Number })
  }),
  Schema.Struct({
    state: Schema.Struct({
      received: Schema.optionalKey(Schema.Number),
      handled: Schema.optionalKey(Schema.Number),
      failed: Schema.optionalKey(Schema.Array(Failure)),
      pending: Schema.optionalKey(Pending),
      sent: Schema.optionalKey(Schema.Number),
      peerReceived: Schema.optionalKey(Schema.Number),
      peerHandled: Schema.optionalKey(Schema.Number),
      roomMessages: Schema.optionalKey(Schema.Number),
      roomBytes: Schema.optionalKey(Schema.Union([Schema.Number, Schema.Literal("unlimited")]))
    })
  })
])
type Step = typeof Step.Type

const SessionCase = Schema.Struct({
  ...named,
  role: Schema.Literals(["server", "client"]),
  grants: Window,
  maxPayload: Schema.Number,
  inbox: Schema.Struct({ epoch: Schema.String, at: Schema.Number }),
  steps: Schema.Array(Step)
})

// --- reading them

let total = 0

/** Declares a test for each case of a file. */
const vectors = <C extends { readonly name: string; readonly spec: string }>(
  file: string,
  schema: Schema.Codec<C, unknown>,
  run: (vector: C) => void
): void => {
  const text = readFileSync(new URL(`./conformance/${file}.json`, import.meta.url), "utf8")
  const Vectors = Schema.Struct({ about: Schema.String, cases: Schema.Array(schema) })
  // An unknown field is a typing error, that would make a case check less than it says.
  const { about, cases } = Schema.decodeUnknownSync(Vectors)(JSON.parse(text), { onExcessProperty: "error" })
  total += cases.length

  describe(file, () => {
    it("has cases, and says what they are", () => {
      assert.notStrictEqual(about, "")
      assert.isAbove(cases.length, 0)
      assert.strictEqual(new Set(cases.map(({ name }) => name)).size, cases.length)
    })
    it.each(cases)("$spec $name", (vector) => {
      assert.include(sections, vector.spec, "the section that it tests")
      run(vector)
    })
  })
}

const textOf = (parts: typeof Text.Type): string =>
  parts.map((part) => typeof part === "string" ? part : part.repeat.repeat(part.times)).join("")

const parsed = (frames: ReadonlyArray<string>): ReadonlyArray<unknown> =>
  frames.map((frame): unknown => JSON.parse(frame))

// --- what they say of the core

const checkDecode = (vector: typeof DecodeCase.Type): void => {
  const text = "frame" in vector ? JSON.stringify(vector.frame) : textOf(vector.text)
  const result = decode(text)
  if (vector.expect === "valid") assert.deepStrictEqual(result, JSON.parse(text))
  else assert.containSubset(result, { t: "violation", code: vector.expect })
}

const encodeCase = (vector: typeof EncodeCase.Type): string => {
  if ("ack" in vector) return encodeAck(vector.ack.received, vector.ack.handled, vector.ack.failed)
  if ("volatile" in vector) return encodeVolatile(vector.volatile)
  if ("batch" in vector) {
    const { ack, first, messages } = vector.batch
    const payloads = messages.map(({ payload }) => payload).join(",")
    const meta = messages.flatMap(({ id, trace }, i) =>
      id === undefined && trace === undefined ? [] : [encodeMeta(i, id, trace)]
    )
    return encodeBatch(first, payloads, meta.join(","), ack === undefined ? "" : encodeAckFields(...ack))
  }
  const frame = decode(JSON.stringify(vector.frame))
  return frame instanceof Violation ? frame.detail : encode(frame)
}

const checkEncode = (vector: typeof EncodeCase.Type): void => {
  const text = encodeCase(vector)
  assert.strictEqual(text, vector.text)
  assert.strictEqual(utf8Length(text), vector.bytes)
  assert.deepStrictEqual(decode(text), JSON.parse(text))
}

const checkHandshake = (vector: typeof HandshakeCase.Type): void => {
  if ("out" in vector) {
    const result = resumeOutbox(vector.out, vector.peerInbox)
    if ("violation" in vector.expect) assert.containSubset(result, { t: "violation", code: vector.expect.violation })
    else assert.deepStrictEqual(result, vector.expect)
    return
  }
  const { epoch, failed, handled, pending, received } = vector.inbox
  const inbox = new Inbox()
  if (epoch !== null) {
    inbox.adopt(epoch, handled)
    inbox.accept(handled + 1, pending.messages, pending.bytes, { messages: Infinity, bytes: Infinity })
    for (const [offset, reason] of failed) inbox.fail(offset, reason)
  }
  assert.deepStrictEqual(inbox.position, { epoch, failed, handled, pending, received }, "the case can be")
  const result = resumeInbox(inbox, vector.peerOutbox)
  if ("violation" in vector.expect) {
    assert.containSubset(result, { t: "violation", code: vector.expect.violation })
    assert.deepStrictEqual(inbox.position, vector.inbox)
  } else {
    assert.strictEqual(result, vector.expect.continued)
    assert.deepStrictEqual(inbox.position, vector.expect.position)
  }
}

const checkLiveness = ({ interval, steps, timeout }: typeof LivenessCase.Type): void => {
  const liveness = new Liveness({ interval, timeout, now: 0 })
  for (const step of steps) {
    if ("heard" in step) liveness.heard(step.heard)
    else assert.strictEqual(liveness.tick(step.tick), step.verdict, `at ${step.tick}`)
  }
}

const checkClose = ({ code, comesBack, doubtful = false, reject }: typeof CloseCase.Type): void => {
  assert.strictEqual(isRetryable(code), comesBack)
  assert.strictEqual(isDoubtful(code), doubtful)
  if (reject !== undefined) assert.strictEqual(closeCodeOf[reject], code)
}

/** A session that takes the steps of a case. */
class Player {
  private readonly session: Session

  constructor({ grants, inbox, maxPayload, role }: typeof SessionCase.Type) {
    this.session = new Session({ role, window: grants, maxPayload })
    this.session.inbox.adopt(inbox.epoch, inbox.at)
  }

  take(step: Step): void {
    const { inbox } = this.session
    if ("open" in step) this.session.open(step.open.window, step.open.position, step.open.announced)
    else if ("lost" in step) this.session.close()
    else if ("adopt" in step) inbox.adopt(step.adopt.epoch, step.adopt.at)
    else if ("handled" in step) this.session.handled(step.handled.epoch, step.handled.offset, step.handled.messages)
    else if ("fail" in step) inbox.fail(step.fail[0], step.fail[1])
    else if ("receive" in step) this.receive(JSON.stringify(step.receive), step)
    else if ("receiveText" in step) this.receive(textOf(step.receiveText), step)
    else if ("send" in step) {
      assert.deepStrictEqual(parsed(this.session.compose(step.send.map(slotOf), this.flow)), step.frames)
    } else if ("ackNow" in step) assert.deepStrictEqual(this.ack() ?? null, step.ackNow)
    else if ("ackNowMany" in step) this.ackMany(step.ackNowMany)
    else if ("state" in step) this.checkState(step.state)
    else if ("receiveMany" in step) {
      for (const offset of offsetsOf(step.receiveMany)) {
        this.receive(`{"t":"batch","o":${offset},"m":[0]}`, { actions: "any" })
      }
    } else for (const offset of offsetsOf(step.failMany)) inbox.fail(offset, "failed")
  }

  private get flow(): Flow {
    if (this.session.flow === undefined) throw new Error("the case sends without a connection")
    return this.session.flow
  }

  private receive(
    text: string,
    expected: { readonly actions: typeof Expected.Type } | { readonly violation: typeof Code.Type }
  ): void {
    const before = JSON.stringify(this.session)
    const result = this.session.receive(text, utf8Length(text))
    if ("violation" in expected) {
      assert.containSubset(result, { t: "violation", code: expected.violation })
      assert.strictEqual(JSON.stringify(this.session), before, "a violation changes nothing")
    } else if (result instanceof Violation) {
      assert.fail(`${result.code}: ${result.detail}`)
    } else if (expected.actions !== "any") {
      assert.deepStrictEqual(result.map(toldOf), expected.actions)
    }
  }

  private ack(): unknown {
    const frame = this.session.composeAck()
    return frame === undefined ? undefined : JSON.parse(frame)
  }

  private ackMany(expected: { readonly received: number; readonly handled: number; readonly failures: number }): void {
    const frame = decode(this.session.composeAck() ?? "")
    if (frame.t !== "ack") return assert.fail("no ack")
    assert.deepStrictEqual(frame.a, [expected.received, expected.handled])
    assert.strictEqual(frame.f?.length, expected.failures)
  }

  private checkState(expected: Extract<Step, { readonly state: unknown }>["state"]): void {
    const { flow, inbox } = this.session
    const { failed, handled, pending, received } = inbox.position
    assert.containSubset({
      received,
      handled,
      failed,
      pending,
      sent: flow?.sent,
      peerReceived: flow?.received,
      peerHandled: flow?.handled,
      roomMessages: flow?.roomMessages,
      roomBytes: flow?.roomBytes === Infinity ? "unlimited" : flow?.roomBytes
    }, expected)
  }
}

const offsetsOf = ({ count, first }: typeof Many.Type): ReadonlyArray<number> =>
  Array.from({ length: count }, (_, i) => first + i)

const slotOf = (slot: Extract<Step, { readonly send: unknown }>["send"][number]): Slot =>
  "end" in slot
    ? { kind: "gap", ...slot }
    : {
      kind: "message",
      offset: slot.offset,
      payload: slot.payload,
      bytes: utf8Length(slot.payload),
      id: slot.id,
      trace: undefined,
      enqueuedAt: 0,
      expiresAt: Infinity
    }

/** An action in the words of the vectors. */
const toldOf = (action: Action): typeof ExpectedAction.Type => {
  switch (action.t) {
    case "deliver": {
      const { first, messages, meta } = action
      const some = meta?.some((facts) => facts !== undefined) === true
      return {
        deliver: { first, payloads: messages, ...(some ? { meta: meta.map((facts) => facts ?? null) } : {}) }
      }
    }
    case "gap":
      return { gap: { first: action.first, end: action.end, reason: action.reason } }
    case "volatile":
      return { volatile: action.messages }
    case "acked":
      return { acked: { handled: action.handled, failed: action.failed } }
    case "reply":
      return { reply: Schema.decodeUnknownSync(Frame)(JSON.parse(action.frame)) }
    default:
      return { frame: { ...action } }
  }
}

describe("Conformance", () => {
  vectors("decode", DecodeCase, checkDecode)
  vectors("encode", EncodeCase, checkEncode)
  vectors("handshake", HandshakeCase, checkHandshake)
  vectors("liveness", LivenessCase, checkLiveness)
  vectors("close", CloseCase, checkClose)
  vectors("session", SessionCase, (vector) => {
    const player = new Player(vector)
    for (const step of vector.steps) player.take(step)
  })

  it("has at least 200 cases", () => {
    assert.isAtLeast(total, 200)
  })

  it("writes only valid frames into the example of the specification", () => {
    const frames = specification.split("\n").filter((line) => /^[CS] \{/.test(line)).map((line) => line.slice(2))
    assert.isAbove(frames.length, 10)
    for (const frame of frames) assert.deepStrictEqual(decode(frame), JSON.parse(frame))
  })
})
