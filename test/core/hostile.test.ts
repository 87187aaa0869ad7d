import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { decode } from "../../src/core/Codec.ts"
import { Inbox } from "../../src/core/Inbox.ts"
import { maxFrameBytes, resumeInbox, resumeOutbox, Session } from "../../src/core/Session.ts"
import { utf8Length } from "../../src/core/utf8.ts"
import { Violation, type ViolationCode } from "../../src/core/Violation.ts"
import { fixed, int } from "../support/coreArbitraries.ts"
import { isValidFrame, NearFrame } from "../support/frames.ts"
import { subjects, withField } from "../support/hostileFrames.ts"

const window = { messages: 10, bytes: 1000 }

/**
 * A session in the middle of its life. Of the peer's log it received 7 and handled 5, with one failure not yet seen;
 * of its own it sent 4, and the peer received 2 and handled 1.
 */
const victim = (role: "server" | "client" = "server", maxPayload = 1_000_000): Session => {
  const session = new Session({ role, window, maxPayload })
  session.inbox.adopt("E", 0)
  session.open(window, { received: 0, handled: 0, pending: { messages: 0, bytes: 0 } }, 0)
  send(session, `{"t":"batch","o":1,"m":[1,2,3,4]}`)
  send(session, `{"t":"gap","o":5,"e":5,"reason":"expired"}`)
  send(session, `{"t":"batch","o":6,"m":[6,7]}`)
  session.inbox.fail(4, "failed")
  session.handled("E", 5, 4)
  session.flow?.sentBatch(1, 4, 80)
  send(session, `{"t":"ack","a":[2,1]}`)
  return session
}

const send = (session: Session, text: string) => session.receive(text, utf8Length(text))

/** All fields, private ones too, all the way down. */
const stateOf = (session: Session): string => JSON.stringify(session)

/** The frame is refused with this code, changes nothing, and the session goes on. */
const refuses = (session: Session, text: string, code: ViolationCode): void => {
  const before = stateOf(session)
  const result = send(session, text)
  if (!(result instanceof Violation)) return assert.fail(`taken: ${text.slice(0, 200)}`)
  if (result.code !== code) assert.fail(`${result.code} (${result.detail}), not ${code}: ${text.slice(0, 200)}`)
  if (stateOf(session) !== before) assert.fail(`changed by what it refused: ${text.slice(0, 200)}`)
}

const goesOn = (session: Session): void => {
  const { flow, inbox } = session
  const next = inbox.received + 1
  assert.containSubset(send(session, `{"t":"batch","o":${next},"m":["next"],"a":[4,4]}`), [
    { t: "acked", handled: 4 },
    { t: "deliver", first: next, messages: ["next"] }
  ])
  assert.strictEqual(flow?.handled, 4)
  session.handled("E", next, 1)
  assert.include(session.composeAck(), `"a":[${next},${next}]`)
}

describe("A hostile peer", () => {
  describe.each(subjects)("that sends $frame.t", ({ frame, wrong }) => {
    it("in its right form is understood", () => {
      const text = JSON.stringify(frame)
      assert.deepStrictEqual(decode(text), JSON.parse(text))
      assert.isTrue(isValidFrame(JSON.parse(text)))
    })

    it.each(Object.entries(wrong))("with the wrong %s is refused", (path, texts) => {
      const session = victim()
      for (const json of texts) refuses(session, withField(frame, path, json), "malformed")
      goesOn(session)
    })

    it("with a key __proto__ in any of its objects is refused", () => {
      const session = victim()
      const text = JSON.stringify(frame)
      for (const { index } of text.matchAll(/\{(?!\})/g)) {
        for (const key of ["__proto__", "\\u005f_proto__", "__proto\\u005F\\u005f"]) {
          for (const value of [`{"t":"ping","a":[9,9]}`, "null"]) {
            refuses(session, `${text.slice(0, index + 1)}"${key}":${value},${text.slice(index + 1)}`, "malformed")
          }
        }
      }
      goesOn(session)
    })

    it("nested 100,000 deep where nobody looks does no harm", () => {
      const session = victim("client")
      for (const [open, close] of [["[", "]"], [`{"a":`, "}"]] as const) {
        const text = `{"new":${open.repeat(100_000)}0${close.repeat(100_000)},${JSON.stringify(frame).slice(1)}`
        assert.strictEqual(decode(text).t, frame["t"])
        send(session, text)
      }
    })
  })

  it("that does not send an object is refused", () => {
    const session = victim()
    const valid = `{"t":"ping"}`
    const texts = ["", " ", "null", "true", "1", "NaN", "Infinity", `"ping"`, "[]", `[${valid}]`, "{}", "{", "\u0000"]
    for (const text of [...texts, `\ufeff${valid}`, valid + valid, `${valid},`, valid.slice(0, -1), `{'t':'ping'}`]) {
      refuses(session, text, "malformed")
    }
    goesOn(session)
  })

  it("that nests payloads too deep is refused, however deep", () => {
    const session = victim()
    for (const [open, close] of [["[", "]"], [`{"a":`, "}"], [`[{"a":`, "}]"]] as const) {
      for (const times of [65, 100_000]) {
        const payload = open.repeat(times) + "0" + close.repeat(times)
        refuses(session, `{"t":"batch","o":8,"m":[1,${payload}]}`, "tooDeep")
        refuses(session, `{"t":"volatile","m":[${payload}]}`, "tooDeep")
        refuses(session, `{"t":"volatile","m":[${open.repeat(times)}`, "malformed")
        refuses(session, payload, "malformed")
      }
    }
    goesOn(session)
  })

  it("that hides __proto__ anywhere in a payload is refused", () => {
    const session = victim()
    for (const key of ["__proto__", "\\u005f_proto__", "\\u005F\\u005Fproto\\u005f\\u005f", "__pr\\u006fto__"]) {
      for (const value of [`{"polluted":true}`, "null", "1"]) {
        const bad = `{"${key}":${value}}`
        for (
          const payload of [bad, `[${bad}]`, `{"a":${bad}}`, `{"a":[1,{"b":${bad}}]}`, `{"a":1,"${key}":${value}}`]
        ) {
          refuses(session, `{"t":"batch","o":8,"m":[1,${payload}]}`, "malformed")
          refuses(session, `{"t":"volatile","m":[${payload}]}`, "malformed")
        }
      }
    }
    assert.isUndefined(Reflect.get({}, "polluted"))
    goesOn(session)
  })

  it("that sends more than a frame may hold is refused before the frame is looked at", () => {
    const session = victim("server", 1000)
    const limit = maxFrameBytes(1000)
    refuses(session, "x".repeat(limit + 1), "tooLarge")
    refuses(session, `{"t":"ping","new":"${"é".repeat(limit / 2)}"}`, "tooLarge")
    refuses(session, `{"t":"batch","o":8,"m":["${"x".repeat(10_000_000)}"]}`, "tooLarge")
    refuses(session, "x".repeat(limit), "malformed")
    goesOn(session)
  })

  it.each(
    [
      ["a batch from the future", `{"t":"batch","o":9,"m":[1]}`, "future"],
      ["a batch from the far future", `{"t":"batch","o":9007199254740989,"m":[1]}`, "future"],
      ["a batch whose end overflows", `{"t":"batch","o":9007199254740990,"m":[1,2]}`, "malformed"],
      ["a gap from the future", `{"t":"gap","o":9,"e":9,"reason":"expired"}`, "future"],
      ["an ack of what was not sent", `{"t":"ack","a":[5,1]}`, "future"],
      ["an ack from the far future", `{"t":"ack","a":[9007199254740991,9007199254740991]}`, "future"],
      ["an ack that received less", `{"t":"ack","a":[1,1]}`, "regress"],
      ["an ack that handled less", `{"t":"ack","a":[2,0]}`, "regress"],
      ["a pong of what was not sent", `{"t":"pong","a":[5,1]}`, "future"],
      ["a pong that goes back", `{"t":"pong","a":[0,0]}`, "regress"],
      ["a good batch with an ack of what was not sent", `{"t":"batch","o":8,"m":[1],"a":[5,5]}`, "future"],
      ["a good batch with an ack that goes back", `{"t":"batch","o":8,"m":[1],"a":[1,1]}`, "regress"],
      ["a batch from the future with a good ack", `{"t":"batch","o":9,"m":[1],"a":[4,4]}`, "future"],
      ["more messages than its window", `{"t":"batch","o":8,"m":[1,2,3,4,5,6,7,8,9]}`, "window"],
      ["more messages than its window, some again", `{"t":"batch","o":6,"m":[1,2,3,4,5,6,7,8,9,10,11]}`, "window"],
      ["more bytes than its window", `{"t":"batch","o":8,"m":["${"x".repeat(1000)}"]}`, "window"],
      ["a sight of what was not handled", `{"t":"seen","o":6}`, "future"],
      ["a meta for no message", `{"t":"batch","o":8,"m":[1],"x":{"1":{}}}`, "malformed"]
    ] as const
  )("that sends %s is refused", (_, text, code) => {
    const session = victim()
    refuses(session, text, code)
    refuses(session, text, code) // as often as it likes
    goesOn(session)
  })

  it("that confirms no failures is not taken more messages from, and is when it does", () => {
    const session = victim()
    for (let i = 0; i < 4 * window.messages; i++) session.inbox.fail(5, "failed")
    refuses(session, `{"t":"batch","o":8,"m":[1]}`, "window")
    assert.deepStrictEqual(send(session, `{"t":"seen","o":5}`), [])
    goesOn(session)
  })

  it("that speaks out of turn is refused", () => {
    const drain = `{"t":"drain","deadline":1,"window":1}`
    const auth = `{"t":"auth","auth":"token"}`
    for (const role of ["server", "client"] as const) {
      const session = victim(role)
      for (const { frame } of subjects) {
        if (frame["t"] === "hello" || frame["t"] === "welcome") refuses(session, JSON.stringify(frame), "unexpected")
      }
      refuses(session, role === "server" ? drain : auth, "unexpected")
      goesOn(session)
      session.close()
      for (const { frame } of subjects) refuses(session, JSON.stringify(frame), "unexpected")
    }
  })

  it("that resumes from impossible positions is refused, and nothing is adopted", () => {
    const inbox = new Inbox()
    inbox.adopt("E", 5)
    const before = structuredClone(inbox)
    assert.containSubset(resumeInbox(inbox, { epoch: "E", acked: 0, last: 4 }), { code: "future" })
    assert.deepStrictEqual(structuredClone(inbox), before)
    const out = { epoch: "E", acked: 3, last: 9 }
    const position = { epoch: "E", received: 2 ** 53 - 1, handled: 5, failed: [], pending: { messages: 0, bytes: 0 } }
    assert.containSubset(resumeOutbox(out, position), { code: "future" })
  })

  describe("that sends nearly valid frames", () => {
    const weird = [
      ["null", "true", "-1", "0", "1", "2", "1.5", "1e999", "9007199254740992", `""`, `"x"`, "[]", "{}", "[[]]"],
      [`{"__proto__":1}`, `{"\\u005f_proto__":{"t":"ping"}}`, "[1,1]", "[5,3]", `[[1,"failed"]]`, "\u0000", "]"],
      ["[".repeat(200) + "]".repeat(200), `"\ud800"`, "}", "\"", "\\", ",", ":", "\ufeff", "NaN", "-"]
    ].flat()
    const Mutation = Schema.Struct({
      how: Schema.Literals(["field", "field", "field", "flip", "insert", "truncate", "repeat"]),
      at: int(0, 10_000),
      with: int(0, weird.length - 1),
      bit: int(0, 15)
    })

    /** Where values stand in a JSON text, found by its syntax alone: after a colon, a comma or an opening bracket. */
    const valuesOf = (text: string): ReadonlyArray<readonly [start: number, end: number]> =>
      [...text.matchAll(/(?<=[:[,])(?:"(?:[^"\\]|\\.)*"|[-\w.+]+|\[[^[\]]*\]|\{[^{}]*\})(?=[,\]}])/g)]
        .map(({ 0: value, index }) => [index, index + value.length])

    const mutate = (text: string, { at, bit, how, ...mutation }: typeof Mutation.Type): string => {
      const other = weird[mutation.with] ?? ""
      const index = at % (text.length + 1)
      switch (how) {
        case "field": {
          const values = valuesOf(text)
          const [start, end] = values[at % Math.max(1, values.length)] ?? [index, index]
          return text.slice(0, start) + other + text.slice(end)
        }
        case "flip":
          return text.slice(0, index) + String.fromCharCode(text.charCodeAt(index) ^ (1 << bit)) + text.slice(index + 1)
        case "insert":
          return text.slice(0, index) + other + text.slice(index)
        case "truncate":
          return text.slice(0, index)
        case "repeat":
          return text.slice(0, index) + text.slice(index >> 1)
      }
    }

    it.prop(
      "gets each decoded as a valid frame or refused",
      [NearFrame, Schema.NonEmptyArray(Mutation)],
      ([frame, mutations]) => {
        const text = mutations.reduce(mutate, JSON.stringify(frame))
        const decoded = decode(text)
        if (decoded instanceof Violation) assert.include(["malformed", "tooDeep"], decoded.code)
        else assert.isTrue(isValidFrame(decoded), text)
      },
      fixed(4000, 3)
    )

    it.prop(
      "never brings a session into an unsound state, and changes nothing by what is refused",
      [Schema.Literals(["server", "client"]), Schema.Array(Schema.Tuple([NearFrame, Schema.Array(Mutation)]))],
      ([role, attack]) => {
        const session = victim(role)
        let offset = 0 // of the last delivery
        for (const [frame, mutations] of attack) {
          const before = stateOf(session)
          const known = session.inbox.received
          const result = send(session, mutations.slice(0, 2).reduce(mutate, JSON.stringify(frame)))
          if (result instanceof Violation) assert.strictEqual(stateOf(session), before)
          else {
            for (const action of result) {
              if (action.t !== "deliver" && action.t !== "gap") continue
              assert.strictEqual(action.first, known + 1)
              assert.isAbove(action.first, offset)
              offset = session.inbox.received
            }
          }
          const { flow, inbox } = session
          assert.isAtMost(inbox.handled, inbox.received)
          assert.isAtLeast(inbox.received, known)
          assert.isAtMost(inbox.position.pending.messages, window.messages)
          assert.isAtMost(flow?.received ?? Infinity, flow?.sent ?? 0)
          assert.isAtMost(flow?.handled ?? Infinity, flow?.received ?? 0)
          assert.isAtMost(flow?.roomMessages ?? Infinity, window.messages)
        }
      },
      fixed(1000, 12)
    )
  })
})
