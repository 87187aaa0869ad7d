/** Laws of `SessionRegistry`, and of what it has to do with the queue. */
import { Effect } from "effect"
import { MessageQueue } from "../MessageQueue.ts"
import { type AttachRequest, type InboxPosition, SessionRegistry } from "../SessionRegistry.ts"
import {
  everything,
  holds,
  law,
  oddTexts,
  PassTime,
  perform,
  refused,
  same,
  type StoreLaw,
  textMessage
} from "./law.ts"

const fenced = { _tag: "resilient-websocket/SessionRegistryError", reason: "fenced" }
const unauthorized = { _tag: "resilient-websocket/HandshakeError", reason: "unauthorized", retryable: false }
const ending = { _tag: "resilient-websocket/HandshakeError", retryable: true }

/** Attaches to session "s" as a peer that needs no token. */
const attach = Effect.fnUntraced(function*(fields: Partial<AttachRequest> = {}) {
  const registry = yield* SessionRegistry
  return yield* registry.attach({
    session: "s",
    principal: undefined,
    authorized: true,
    tokenHash: undefined,
    nextTokenHash: "hash",
    instance: "instance",
    ...fields
  })
})

/** Attaches with a token, which the next one replaces. */
const withToken = (tokenHash: string | undefined, nextTokenHash: string, fields: Partial<AttachRequest> = {}) =>
  attach({ authorized: false, tokenHash, nextTokenHash, ...fields })

const position = (handled: number, fields: Partial<InboxPosition> = {}): InboxPosition => ({
  epoch: "log",
  received: handled + 2,
  handled,
  failed: [[handled, "undecodable"]],
  pending: { messages: 2, bytes: 20 },
  ...fields
})

/** How far the stored position is, as the next attach gets it. */
const storedPosition = Effect.map(attach(), (attached) => attached.position)

const attaching: ReadonlyArray<StoreLaw> = [
  law(
    "a session is made by the first attach, and known from then on; each attach raises its generation",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const first = yield* attach({ principal: "someone", instance: "one" })
      yield* holds("the first generation", first.generation >= 1, "at least 1", first.generation)
      const { known, position, replaced } = first
      yield* same("the rest of it", { known, position, replaced }, {
        known: false,
        position: undefined,
        replaced: false
      })
      const second = yield* attach({ principal: "someone", instance: "one" })
      yield* holds("the next generation", second.generation > first.generation, "a higher one", second.generation)
      yield* same("the same instance", [second.known, second.replaced], [true, false])
      const third = yield* attach({ principal: "someone", instance: "two" })
      yield* same("another instance", [third.known, third.replaced], [true, true])
      yield* same("what is found", { ...yield* registry.find("s"), here: undefined }, {
        session: "s",
        principal: "someone",
        generation: third.generation,
        instance: "two",
        attached: true,
        endsAtMillis: undefined,
        here: undefined
      })
      yield* same("what is not there", yield* registry.find("t"), undefined)
    })
  ),

  law(
    "a principal's sessions are found: who is attached first, then who was detached last; none that has ended",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const passTime = yield* PassTime
      const of = (principal: string, limit = 10) =>
        Effect.map(
          registry.sessionsOf(principal, limit),
          (sessions) => sessions.map(({ attached, session }) => `${session} ${attached}`)
        )
      for (const session of ["a", "b", "c", "d"]) {
        const { generation } = yield* attach({ session, principal: "someone" })
        yield* passTime(5)
        if (session !== "b") yield* registry.detach(session, generation)
      }
      yield* attach({ session: "e", principal: "another" })
      yield* attach({ session: "f" })
      yield* same("those of one", yield* of("someone"), ["b true", "d false", "c false", "a false"])
      yield* same("the first two", yield* of("someone", 2), ["b true", "d false"])
      yield* same("those of another", yield* of("another"), ["e true"])
      yield* same("those of nobody", yield* of("nobody"), [])
      yield* attach({ session: "a", principal: "someone" })
      yield* registry.end("d")
      yield* registry.end("b")
      yield* registry.remove("b")
      yield* same("those that are left", yield* of("someone"), ["a true", "c false"])
    })
  ),

  law(
    "of those that attach at once each has a generation of its own",
    Effect.gen(function*() {
      const all = yield* Effect.forEach([1, 2, 3, 4, 5, 6], (n) => attach({ instance: `${n}` }), {
        concurrency: "unbounded"
      })
      yield* same("how many generations", new Set(all.map(({ generation }) => generation)).size, 6)
      yield* same("how many found no session", all.filter(({ known }) => !known).length, 1)
      const newest = Math.max(...all.map(({ generation }) => generation))
      const registry = yield* SessionRegistry
      yield* same("the one that is stored", (yield* registry.find("s"))?.generation, newest)
    })
  ),

  law(
    "a session is its principal's, and needs its token from who is not authorized",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation } = yield* withToken(undefined, "one", { principal: "someone" })
      const forbidden = { _tag: "resilient-websocket/HandshakeError", reason: "forbidden", retryable: false }
      yield* refused("somebody else", attach({ principal: "another" }), forbidden)
      yield* refused("somebody else with the token", withToken("one", "x", { principal: "another" }), forbidden)
      yield* refused("nobody", attach(), forbidden)
      yield* refused("a wrong token", withToken("two", "x", { principal: "someone" }), unauthorized)
      yield* refused("no token", withToken(undefined, "x", { principal: "someone" }), unauthorized)
      yield* same("the generation after that", (yield* registry.find("s"))?.generation, generation)
      yield* same("who is authorized", (yield* attach({ principal: "someone" })).known, true)
    })
  ),

  law(
    "a token is good until the one that replaced it has been used",
    Effect.gen(function*() {
      yield* withToken(undefined, "one")
      yield* withToken("one", "two")
      // The answer with "two" was lost.
      yield* withToken("one", "three")
      yield* refused("a token that was replaced before it was used", withToken("two", "x"), unauthorized)
      yield* withToken("three", "four")
      yield* refused("a token whose successor was used", withToken("one", "x"), unauthorized)
      yield* withToken("three", "five")
      yield* withToken("five", "six")
      yield* refused("the one before that", withToken("three", "x"), unauthorized)
    })
  ),

  law(
    "a dial that a later one of the same client has overtaken is refused, and uses up nothing",
    Effect.gen(function*() {
      yield* withToken(undefined, "one", { attempt: 1 })
      yield* withToken("one", "two", { attempt: 3 })
      const replaced = { _tag: "resilient-websocket/HandshakeError", reason: "replaced", retryable: false }
      yield* refused("the second dial", withToken("one", "x", { attempt: 2 }), replaced)
      yield* withToken("two", "three", { attempt: 4 })
      const other = yield* withToken("three", "four", { instance: "another", attempt: 1 })
      yield* same("another client's first dial", other.replaced, true)
    })
  ),

  law(
    "sessions are bounded",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      yield* attach({ session: "a" })
      yield* attach({ session: "b" })
      const full = { _tag: "resilient-websocket/HandshakeError", reason: "overloaded", retryable: true }
      yield* refused("a third one", attach({ session: "c" }), full)
      yield* same("one that is known", (yield* attach({ session: "a" })).known, true)
      yield* registry.remove("b")
      yield* same("the third one, when there is room", (yield* attach({ session: "c" })).known, false)
    }),
    { registry: { maxSessions: 2 } }
  ),

  law(
    "any text can be a session, a principal, an instance or a token's hash",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      for (const text of oddTexts) {
        const fields = { session: text, principal: text, instance: text }
        const { generation, known } = yield* withToken(undefined, text, fields)
        yield* same(`whether ${text} was known`, known, false)
        yield* registry.savePosition(text, generation, position(3, { epoch: text }))
        const again = yield* withToken(text, "next", fields)
        yield* same(`the position of ${text}`, again.position, position(3, { epoch: text }))
        const found = yield* registry.find(text)
        yield* same(`who ${text} is`, [found?.session, found?.principal, found?.instance], [text, text, text])
      }
    })
  ),

  law(
    "the generation that an attach gives fences the older owner's outbox",
    Effect.gen(function*() {
      const queue = yield* MessageQueue
      const older = yield* attach()
      const { epoch } = yield* queue.open("s", older.generation)
      yield* queue.append("s", [textMessage("a")])
      const newer = yield* attach()
      const position = yield* queue.open("s", newer.generation)
      yield* same("the outbox", position, { epoch, acked: 0, last: 1 })
      const stale = { _tag: "resilient-websocket/MessageQueueError", reason: "fenced" }
      yield* refused("the older owner's read", perform(queue.read, "s", older.generation, 0, everything), stale)
      yield* refused("the older owner's ack", perform(queue.ack, "s", older.generation, 1, []), stale)
      const { slots } = yield* perform(queue.read, "s", newer.generation, 0, everything)
      yield* same("what the newer one reads", slots.length, 1)
    })
  )
]

const positions: ReadonlyArray<StoreLaw> = [
  law(
    "a position that was saved is given to who attaches next, as it was",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation } = yield* attach()
      const first = position(3, { failed: [[1, "failed"], [2, "rejected:sold \"out\""], [3, "undecodable"]] })
      yield* registry.savePosition("s", generation, first)
      yield* same("the position", yield* storedPosition, first)
      const { generation: next } = yield* attach()
      const none = position(0, { epoch: null, received: 0, failed: [], pending: { messages: 0, bytes: 0 } })
      yield* registry.savePosition("s", next, none)
      yield* same("a position in no log", yield* storedPosition, none)
    })
  ),

  law(
    "an older owner's position is refused, and one of a session that is not there",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation } = yield* attach()
      yield* registry.savePosition("s", generation, position(3))
      yield* attach()
      yield* refused("a save by the older owner", registry.savePosition("s", generation, position(9)), fenced)
      yield* refused("a commit by the older owner", registry.commitPosition("s", generation, position(9)), fenced)
      yield* refused("a save for nobody", registry.savePosition("t", 1, position(1)), fenced)
      yield* same("the position", yield* storedPosition, position(3))
    })
  ),

  law(
    "a position never goes back in its log; another log's takes its place",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation } = yield* attach()
      const save = (position: InboxPosition) => registry.savePosition("s", generation, position)
      yield* save(position(5))
      yield* save(position(5))
      yield* save(position(4))
      const { generation: next, position: stored } = yield* attach()
      yield* same("the position", stored, position(5))
      yield* registry.savePosition("s", next, position(1, { epoch: "another" }))
      yield* same("the position in another log", yield* storedPosition, position(1, { epoch: "another" }))
    })
  ),

  law(
    "a position that a handler commits must be ahead of the stored one",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation } = yield* attach()
      const commit = (position: InboxPosition) => registry.commitPosition("s", generation, position)
      yield* commit(position(3))
      yield* refused("the same one", commit(position(3)), fenced)
      yield* refused("an older one", commit(position(2)), fenced)
      yield* commit(position(4))
      const exits = yield* Effect.forEach([1, 2, 3], () => Effect.exit(commit(position(5))), {
        concurrency: "unbounded"
      })
      yield* same("how many of those at once", exits.filter(({ _tag }) => _tag === "Success").length, 1)
      yield* same("the position", yield* storedPosition, position(5))
    })
  )
]

const ends: ReadonlyArray<StoreLaw> = [
  law(
    "a session outlives its connection by the retention, and then ends once",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const passTime = yield* PassTime
      const { generation } = yield* attach()
      yield* attach({ session: "attached" })
      yield* registry.detach("s", generation)
      yield* registry.detach("s", generation)
      const found = yield* registry.find("s")
      yield* same("whether it is attached", found?.attached, false)
      yield* holds("its end", found?.endsAtMillis !== undefined, "a time", found?.endsAtMillis)
      yield* passTime(600)
      yield* same("what ends before its time", yield* registry.expire, [])
      yield* passTime(600)
      yield* same("what ends", yield* registry.expire, ["s"])
      yield* passTime(200)
      yield* same("what ends again", yield* registry.expire, [])
      yield* refused("an attach to it", attach(), ending)
      yield* refused("a position of it", registry.savePosition("s", generation, position(1)), fenced)
      yield* same("what is found of it", yield* registry.find("s"), undefined)
      yield* same("its removal", yield* registry.remove("s"), true)
      yield* same("its removal again", yield* registry.remove("s"), false)
      const again = yield* attach()
      yield* same("a new one under its name", [again.known, again.position], [false, undefined])
      yield* same("the one that is attached", (yield* registry.find("attached"))?.attached, true)
    }),
    { registry: { retention: 1_000 } }
  ),

  law(
    "a session that attaches again is kept, and its retention begins anew",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const passTime = yield* PassTime
      const first = yield* attach()
      yield* registry.detach("s", first.generation)
      yield* passTime(800)
      const second = yield* attach()
      yield* same("whether it replaced one", [second.known, second.replaced], [true, false])
      yield* passTime(800)
      yield* same("what ends while it is attached", yield* registry.expire, [])
      yield* registry.detach("s", second.generation)
      yield* passTime(800)
      yield* same("what ends before its time", yield* registry.expire, [])
      yield* passTime(400)
      yield* same("what ends", yield* registry.expire, ["s"])
    }),
    { registry: { retention: 1_000 } }
  ),

  law(
    "a stale detach or release does nothing",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation: older } = yield* attach()
      const { generation } = yield* attach()
      yield* registry.detach("s", older)
      yield* registry.release("s", older)
      yield* registry.detach("t", 1)
      yield* registry.release("t", 1)
      yield* same("whether it is attached", (yield* registry.find("s"))?.attached, true)
      yield* registry.savePosition("s", generation, position(1))
      yield* registry.detach("s", generation)
      yield* registry.release("s", generation)
      yield* registry.release("s", generation)
      const found = yield* registry.find("s")
      yield* same("the session that was let go", [found?.attached, found?.generation], [false, generation])
      yield* same("its position", yield* storedPosition, position(1))
    })
  ),

  law(
    "a session that is ended fences its owner, and nobody attaches to it until it is removed",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation } = yield* attach()
      yield* same("the end of it", yield* registry.end("s"), true)
      yield* same("the end of what is not there", yield* registry.end("t"), false)
      yield* refused("a position of its owner", registry.savePosition("s", generation, position(1)), fenced)
      yield* refused("a commit of its owner", registry.commitPosition("s", generation, position(1)), fenced)
      yield* refused("an attach to it", attach(), ending)
      yield* registry.detach("s", generation)
      yield* same("what is found of it", yield* registry.find("s"), undefined)
      yield* same("its end again", yield* registry.end("s"), true)
      yield* same("its removal", yield* registry.remove("s"), true)
      yield* same("a new one under its name", (yield* attach()).known, false)
    })
  ),

  law(
    "a session ends before its time for the newest generation alone, attached or not",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const { generation: older } = yield* attach()
      const { generation } = yield* attach()
      yield* same("for an older generation", yield* registry.expireNow("s", older), false)
      yield* same("for one that is not there", yield* registry.expireNow("t", 1), false)
      yield* same("whether it is attached", (yield* registry.find("s"))?.attached, true)
      yield* same("for the newest generation", yield* registry.expireNow("s", generation), true)
      yield* refused("an attach to it", attach(), ending)
      yield* same("what is found of it", yield* registry.find("s"), undefined)
      yield* same("its removal", yield* registry.remove("s"), true)
      const again = yield* attach()
      yield* registry.detach("s", again.generation)
      yield* same("when it is not attached", yield* registry.expireNow("s", again.generation), true)
    })
  ),

  law(
    "sessions are counted, within seconds",
    Effect.gen(function*() {
      const registry = yield* SessionRegistry
      const passTime = yield* PassTime
      yield* attach({ session: "a" })
      yield* attach({ session: "b" })
      const { generation } = yield* attach({ session: "c" })
      yield* registry.detach("c", generation)
      yield* passTime(10_000)
      yield* same("the sessions", yield* registry.count, { sessions: 3, attached: 2 })
      yield* registry.remove("a")
      yield* registry.remove("c")
      yield* passTime(10_000)
      yield* same("the sessions that are left", yield* registry.count, { sessions: 1, attached: 1 })
    })
  )
]

export const registryLaws: ReadonlyArray<StoreLaw> = [...attaching, ...positions, ...ends]
