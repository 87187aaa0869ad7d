/** Each field of each frame, and the JSON texts that must not stand there. */

const list = (...parts: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => parts.flat()

const absent = "absent"
const max = "9007199254740991"
const beyond = "9007199254740992"
const deep = "[".repeat(100_000) + "]".repeat(100_000)

const position = list(
  ["null", "true", `"1"`, `"\\u0000"`, "[]", "{}", "[1]", "[null]", `{"toString":1}`, deep],
  ["-1", "0.5", "1.5", beyond, "-9007199254740993", "1e999", "-1e999", "1e-9"]
)
const offset = list(position, ["0", "-0"])
const duration = list(position, [max, String(10 * 365 * 86_400_000 + 1)])
const required = (wrong: ReadonlyArray<string>) => list(wrong, [absent])
const text = (longest: number) =>
  list(
    ["null", "1", "true", `""`, "[]", `["x"]`, "{}", deep, `"${"x".repeat(longest + 1)}"`],
    [`"\\u0000"`, `"a\\u0000b"`, `"\\ud800"`, `"\\udc00\\ud800"`, `"a\ud800"`]
  )
const object = list(["null", "1", "true", `"x"`, "[]", "[{}]", deep])
const oneOf = list(
  ["null", "1", "true", `""`, `"other"`, `"__proto__"`, `"toString"`, "[]", `["failed"]`, "{}", deep]
)
const flag = list(["null", "0", "1", `"true"`, `""`, "[]", "{}", deep])
const ack = list(
  ["null", "1", "true", `"x"`, "{}", `{"0":1,"1":1}`, "[]", "[1]", "[1,1,1]", "[[1],[1]]", deep],
  ["[1,2]", "[-1,-1]", "[1,-1]", "[1.5,1]", "[1,0.5]", `["1",1]`, "[1,null]", `[${beyond},1]`, "[1e999,1]"]
)
const failures = list(
  ["null", "1", "true", `"x"`, "{}", "[1]", "[null]", "[[]]", "[[1]]", deep],
  [`[[0,"failed"]]`, `[[-1,"failed"]]`, `[[1.5,"failed"]]`, `[[1e999,"failed"]]`, `[[${beyond},"failed"]]`],
  [`[["1","failed"]]`, `[[1,"failed",1]]`, `[[1,"other"]]`, `[[1,null]]`, `[[1,["failed"]]]`],
  [`[[1,"failed"],[2]]`, `[{"0":1,"1":"failed"}]`]
)
const payloads = list(["null", "1", "true", `"x"`, "{}", `{"0":1,"length":1}`, "[]", "[1e400]", `[{"a":[-1e400]}]`])
const meta = list(
  ["null", "1", "true", `"x"`, "[]", "[{}]", deep],
  [`{"2":{}}`, `{"-1":{}}`, `{"00":{}}`, `{"1e0":{}}`, `{" 0":{}}`, `{"":{}}`, `{"a":{}}`, `{"0.5":{}}`],
  [`{"Infinity":{}}`, `{"0":null}`, `{"0":1}`, `{"0":"x"}`, `{"0":[]}`],
  ["id", "trace"].flatMap((field) => text(256).map((wrong) => `{"0":{"${field}":${wrong}}}`))
)

const handshake = {
  "out": required(object),
  "out.epoch": required(text(256)),
  "out.acked": required(list(position, ["10"])), // more than `last`
  "out.last": required(list(position, ["2"])), // less than `acked`
  "in": required(object),
  "in.epoch": required(text(256).filter((wrong) => wrong !== "null")),
  "in.received": required(list(position, ["1"])), // less than `handled`
  "in.handled": required(list(position, ["8"])), // more than `received`
  "in.failed": required(failures),
  "in.pending": required(object),
  "in.pending.messages": required(position),
  "in.pending.bytes": required(position),
  "window": required(object),
  "window.messages": required(offset),
  "window.bytes": required(offset),
  "maxPayload": required(offset)
}

const out = { epoch: "E", acked: 3, last: 9 }
const inbox = { epoch: "F", received: 7, handled: 5, failed: [[4, "failed"]], pending: { messages: 2, bytes: 90 } }
const window = { messages: 10, bytes: 1000 }

interface Subject {
  readonly frame: { readonly [field: string]: unknown }
  /** By path. */
  readonly wrong: { readonly [path: string]: ReadonlyArray<string> }
}

const type = required(list(oneOf, ["-0", "1e999"]))

export const subjects: ReadonlyArray<Subject> = [
  {
    frame: { t: "batch", o: 8, m: [1, 2], x: { 0: { id: "i", trace: "t" } }, a: [2, 1] },
    wrong: { t: type, o: required(list(offset, [max])), m: required(payloads), x: meta, a: ack }
  },
  { frame: { t: "ack", a: [2, 1], f: [[1, "failed"]] }, wrong: { t: type, a: required(ack), f: failures } },
  { frame: { t: "pong", a: [2, 1] }, wrong: { t: type, a: required(ack) } },
  { frame: { t: "ping" }, wrong: { t: type } },
  { frame: { t: "end" }, wrong: { t: type } },
  { frame: { t: "seen", o: 1 }, wrong: { t: type, o: required(offset) } },
  {
    frame: { t: "gap", o: 8, e: 9, reason: "expired" },
    wrong: { t: type, o: required(list(offset, ["10"])), e: required(list(offset, ["7"])), reason: required(oneOf) }
  },
  { frame: { t: "volatile", m: [1] }, wrong: { t: type, m: required(payloads) } },
  { frame: { t: "auth", auth: "token" }, wrong: { t: type, auth: required(text(8192)) } },
  {
    frame: { t: "drain", deadline: 1, window: 2, endpoint: "wss://other" },
    wrong: { t: type, deadline: required(duration), window: required(duration), endpoint: text(2048) }
  },
  {
    frame: { t: "reject", code: "replaced", detail: "d" },
    wrong: {
      t: type,
      code: required(flag.filter((w) => !w.startsWith(`"`))),
      detail: required(["null", "1", "[]", deep])
    }
  },
  {
    frame: {
      t: "hello",
      version: 1,
      session: "s",
      token: "t",
      instance: "i",
      auth: "a",
      out,
      in: inbox,
      window,
      maxPayload: 9
    },
    wrong: {
      t: type,
      version: required(position),
      session: text(256),
      token: text(256),
      instance: required(text(256)),
      auth: text(8192),
      ...handshake
    }
  },
  {
    frame: {
      t: "welcome",
      result: "fresh",
      reason: "new",
      session: "s",
      token: "t",
      generation: 1,
      out,
      in: inbox,
      continued: { in: true, out: false },
      window,
      maxPayload: 9,
      heartbeat: 1,
      retention: 1,
      jitter: 1
    },
    wrong: {
      t: type,
      result: required(oneOf),
      reason: text(256),
      session: required(text(256)),
      token: required(text(256)),
      generation: required(position),
      continued: required(object),
      "continued.in": required(flag),
      "continued.out": required(flag),
      heartbeat: required(duration),
      retention: required(duration),
      jitter: required(duration),
      ...handshake
    }
  }
]

/** The text of `frame` with the JSON text `json` at `path`, or with nothing there. */
export const withField = (frame: Subject["frame"], path: string, json: string): string => {
  const copy: { [field: string]: unknown } = structuredClone(frame)
  const names = path.split(".")
  const last = names.pop() ?? ""
  let target = copy
  for (const name of names) target = target[name] as typeof copy // paths lead through objects
  if (json === absent) delete target[last]
  else target[last] = "@"
  return JSON.stringify(copy).replace(`"@"`, () => json)
}
