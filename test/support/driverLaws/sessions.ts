/** Laws of session rows, positions, nodes and nudges. */
import { assert } from "@effect/vitest"
import { Deferred, Effect, Exit, Scope } from "effect"
import type { StoreDriver } from "../../../src/internal/store/driver.ts"
import { append, type Law, message, NODE, numbers, only, open, OTHER, position, row, T } from "./kit.ts"

export const sessionLaws = (law: Law): void => {
  law(
    "a session is found as it was stored, field by field",
    Effect.fnUntraced(function*({ driver, other }) {
      assert.isUndefined(yield* driver.findSession("s"))
      const stored = { _tag: "Stored", position: undefined } as const
      const bare = row("s", { node: undefined })
      assert.deepStrictEqual(yield* driver.putSession(bare), stored)
      assert.deepStrictEqual(yield* other.findSession("s"), bare)
      const full = row("s", {
        principal: "someone",
        tokenHash: "next",
        previousTokenHash: "hash",
        generation: 2,
        instance: "another",
        attempt: 12,
        node: OTHER,
        detachedAt: T + 1,
        wantedBy: NODE,
        ending: true,
        revision: 2
      })
      assert.deepStrictEqual(yield* other.putSession(full), stored)
      assert.deepStrictEqual(yield* driver.findSession("s"), full)
      assert.deepStrictEqual(yield* driver.putSession({ ...bare, revision: 3 }), stored)
      assert.deepStrictEqual(yield* driver.findSession("s"), { ...bare, revision: 3 })
    })
  )

  law(
    "a row is stored only in place of the one before it",
    Effect.fnUntraced(function*({ driver }) {
      const conflict = { _tag: "Conflict" } as const
      assert.deepStrictEqual(yield* driver.putSession(row("s", { revision: 2 })), conflict)
      assert.isUndefined(yield* driver.findSession("s"))
      yield* driver.putSession(row("s"))
      for (const revision of [1, 3, 0]) {
        assert.deepStrictEqual(yield* driver.putSession(row("s", { revision, instance: "x" })), conflict)
      }
      assert.deepStrictEqual(yield* driver.findSession("s"), row("s"))
      assert.strictEqual((yield* driver.putSession(row("s", { revision: 2 })))._tag, "Stored")
    })
  )

  law(
    "of those that store at once one wins",
    Effect.fnUntraced(function*({ driver, other }) {
      for (const revision of numbers(1, 6)) {
        const outcomes = yield* Effect.forEach(
          [driver, other, driver, other],
          (by, i) => by.putSession(row("s", { revision, instance: `${i}` })),
          { concurrency: "unbounded" }
        )
        const winners = outcomes.flatMap(({ _tag }, i) => _tag === "Stored" ? [`${i}`] : [])
        assert.deepStrictEqual([(yield* driver.findSession("s"))?.instance], winners)
      }
    })
  )

  law(
    "detached sessions come oldest first, no more than asked for, up to a time",
    Effect.fnUntraced(function*({ driver, other }) {
      const at: Record<string, number | undefined> = { a: T + 30, b: T + 10, c: undefined, d: T + 20, e: T + 40 }
      for (const [id, detachedAt] of Object.entries(at)) yield* driver.putSession(row(id, { detachedAt }))
      const detached = (until: number, limit: number) =>
        Effect.map(other.detachedBefore(until, limit), (rows) => rows.map(({ id }) => id))
      assert.deepStrictEqual(yield* detached(T + 9, 10), [])
      assert.deepStrictEqual(yield* detached(T + 30, 10), ["b", "d", "a"])
      assert.deepStrictEqual(yield* detached(T + 30, 2), ["b", "d"])
      assert.deepStrictEqual(yield* detached(Infinity, 10), ["b", "d", "a", "e"])
      assert.deepStrictEqual(yield* other.detachedBefore(T + 10, 10), [row("b", { detachedAt: T + 10 })])

      // Whoever attaches again, or is gone, is not among them; whoever detaches again has its new time.
      yield* driver.putSession(row("b", { revision: 2 }))
      yield* driver.putSession(row("d", { detachedAt: T + 99, revision: 2 }))
      yield* driver.putSession(row("c", { detachedAt: T + 1, revision: 2 }))
      yield* driver.deleteSession("a")
      assert.deepStrictEqual(yield* detached(Infinity, 10), ["c", "e", "d"])
    })
  )

  law(
    "a node's sessions are found, wherever they were before",
    Effect.fnUntraced(function*({ driver }) {
      const idsOf = (node: string, limit = 10) =>
        Effect.map(driver.sessionsOf(node, limit), (rows) => rows.map(({ id }) => id).toSorted())
      for (const id of ["a", "b", "c"]) yield* driver.putSession(row(id, { node: "x" }))
      yield* driver.putSession(row("d", { node: "X" }))
      yield* driver.putSession(row("e", { node: undefined }))
      assert.deepStrictEqual(yield* idsOf("x"), ["a", "b", "c"])
      assert.strictEqual((yield* idsOf("x", 2)).length, 2)
      yield* driver.putSession(row("a", { node: "y", revision: 2 }))
      yield* driver.putSession(row("b", { node: undefined, revision: 2 }))
      assert.deepStrictEqual([yield* idsOf("x"), yield* idsOf("y"), yield* idsOf("z")], [["c"], ["a"], []])
      assert.deepStrictEqual(yield* driver.sessionsOf("y", 1), [row("a", { node: "y", revision: 2 })])
      yield* driver.deleteSession("c")
      assert.deepStrictEqual(yield* idsOf("x"), [])
    })
  )

  law(
    "a principal's sessions are found, those that are attached first, then those that were detached last",
    Effect.fnUntraced(function*({ driver, other }) {
      const of = (principal: string, limit = 10) =>
        Effect.map(other.sessionsOfPrincipal(principal, limit), (rows) => rows.map(({ id }) => id))
      const put = (id: string, fields: Parameters<typeof row>[1]) => driver.putSession(row(id, fields))
      yield* put("old", { principal: "ann", detachedAt: T + 10 })
      yield* put("new", { principal: "ann", detachedAt: T + 30 })
      yield* put("on", { principal: "ann" })
      yield* put("middle", { principal: "ann", detachedAt: T + 20 })
      yield* put("ending", { principal: "ann", detachedAt: T + 40, ending: true })
      yield* put("other", { principal: "Ann" })
      yield* put("nobody", { principal: undefined })
      assert.deepStrictEqual(yield* of("ann"), ["on", "new", "middle", "old"])
      assert.deepStrictEqual([yield* of("Ann"), yield* of("bob")], [["other"], []])
      assert.deepStrictEqual(yield* of("ann", 2), ["on", "new"])
      assert.deepStrictEqual(yield* other.sessionsOfPrincipal("Ann", 5), [row("other", { principal: "Ann" })])
      yield* put("old", { principal: "ann", revision: 2 })
      yield* put("on", { principal: "ann", detachedAt: T + 50, revision: 2 })
      yield* driver.deleteSession("new")
      assert.deepStrictEqual(yield* of("ann"), ["old", "on", "middle"])
      yield* put("middle", { principal: "bob", revision: 2 })
      assert.deepStrictEqual([yield* of("ann"), yield* of("bob")], [["old", "on"], ["middle"]])
    })
  )

  law(
    "sessions are counted, and leave nothing when deleted",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* driver.putSession(row("a"))
      yield* driver.putSession(row("b"))
      yield* driver.putSession(row("c", { detachedAt: T }))
      yield* driver.savePositions([position("a", 5)])
      assert.deepStrictEqual(yield* other.countSessions, { sessions: 3, attached: 2 })
      yield* driver.putSession(row("b", { detachedAt: T, revision: 2 }))
      assert.deepStrictEqual(yield* other.countSessions, { sessions: 3, attached: 1 })
      yield* driver.putSession(row("c", { revision: 2 }))
      assert.deepStrictEqual(yield* other.countSessions, { sessions: 3, attached: 2 })

      assert.isTrue(yield* driver.deleteSession("a"))
      assert.isFalse(yield* other.deleteSession("a"))
      assert.isUndefined(yield* driver.findSession("a"))
      assert.deepStrictEqual(yield* other.countSessions, { sessions: 2, attached: 1 })
      // A new one under the same name has no position.
      assert.deepStrictEqual(yield* driver.putSession(row("a")), { _tag: "Stored", position: undefined })
      assert.deepStrictEqual(yield* driver.savePositions([position("a", 1)]), ["Saved"])
      for (const id of ["a", "b", "c"]) yield* driver.deleteSession(id)
      assert.deepStrictEqual(yield* other.countSessions, { sessions: 0, attached: 0 })
    })
  )

  law(
    "one that was ended on purpose is known as such, until a new one has its name or the time is over",
    Effect.fnUntraced(function*({ driver, other }) {
      const tombstone = { at: T, until: T + 60_000 }
      yield* driver.putSession(row("s"))
      assert.isFalse(yield* driver.wasEnded("s", T))
      assert.isTrue(yield* driver.deleteSession("s", tombstone))
      assert.isTrue(yield* other.wasEnded("s", T + 1))
      assert.isFalse(yield* driver.wasEnded("t", T))
      assert.isFalse(yield* other.deleteSession("s", tombstone))
      assert.isTrue(yield* driver.wasEnded("s", T + 1))

      yield* other.putSession(row("s"))
      assert.isFalse(yield* driver.wasEnded("s", T + 1))
      assert.isTrue(yield* driver.deleteSession("s"))
      assert.isFalse(yield* driver.wasEnded("s", T + 1))

      yield* driver.deleteSession("s", { at: T, until: T + 1 })
      yield* Effect.promise(() => new Promise((resolve) => setTimeout(resolve, 20)))
      assert.isFalse(yield* driver.wasEnded("s", T + 2))
      // Old ones are taken away by those that come.
      for (const id of ["u", "v", "w"]) {
        yield* driver.deleteSession(id, { at: T + 2, until: T + 60_000 })
        assert.isTrue(yield* driver.wasEnded(id, T + 3))
      }
      assert.isFalse(yield* driver.wasEnded("s", T))
    })
  )
}

/** Reads a session's position the only way there is: by replacing the row. */
const positionOf = Effect.fnUntraced(function*(driver: StoreDriver, id: string) {
  const stored = yield* driver.findSession(id)
  if (stored === undefined) return undefined
  const outcome = yield* driver.putSession({ ...stored, revision: stored.revision + 1 })
  return outcome._tag === "Stored" ? outcome.position : outcome._tag
})

export const positionLaws = (law: Law): void => {
  law(
    "a position is kept with its session, and told to who attaches",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* driver.putSession(row("s"))
      assert.deepStrictEqual(yield* driver.savePositions([position("s", 3)]), ["Saved"])
      assert.deepStrictEqual(yield* other.putSession(row("s", { revision: 2 })), { _tag: "Stored", position: "at 3" })
      assert.strictEqual(yield* positionOf(other, "s"), "at 3")
      assert.deepStrictEqual(yield* other.savePositions([position("s", 8)]), ["Saved"])
      assert.strictEqual(yield* positionOf(driver, "s"), "at 8")
      // Saving it is not a change of the row.
      assert.strictEqual((yield* driver.findSession("s"))?.revision, 4)
    })
  )

  law(
    "a position never goes back in its log; another log's takes its place",
    Effect.fnUntraced(function*({ driver }) {
      yield* driver.putSession(row("s"))
      const save = (handled: number, fields: Partial<ReturnType<typeof position>> = {}) =>
        Effect.map(driver.savePositions([position("s", handled, fields)]), only)
      assert.strictEqual(yield* save(5), "Saved")
      assert.strictEqual(yield* save(4), "Behind")
      assert.strictEqual(yield* positionOf(driver, "s"), "at 5")
      // Again, as after an answer that was lost.
      assert.strictEqual(yield* save(5), "Saved")
      assert.strictEqual(yield* save(5, { position: "at 5, and more" }), "Saved")
      assert.strictEqual(yield* positionOf(driver, "s"), "at 5, and more")
      assert.strictEqual(yield* save(1, { epoch: "another log" }), "Saved")
      assert.strictEqual(yield* positionOf(driver, "s"), "at 1")
      assert.strictEqual(yield* save(2, { epoch: "another log" }), "Saved")
    })
  )

  law(
    "a strict position must be ahead",
    Effect.fnUntraced(function*({ driver }) {
      yield* driver.putSession(row("s"))
      const save = (handled: number, epoch = "log") =>
        Effect.map(driver.savePositions([position("s", handled, { strict: true, epoch })]), only)
      assert.strictEqual(yield* save(0), "Saved")
      assert.strictEqual(yield* save(0), "Behind")
      assert.strictEqual(yield* save(2), "Saved")
      assert.strictEqual(yield* save(2), "Behind")
      assert.strictEqual(yield* save(1), "Behind")
      assert.strictEqual(yield* positionOf(driver, "s"), "at 2")
      assert.strictEqual(yield* save(0, "another log"), "Saved")
    })
  )

  law(
    "of two that save the same strict position at once one is behind",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* driver.putSession(row("s"))
      for (const handled of numbers(1, 6)) {
        const request = [position("s", handled, { strict: true })]
        const outcomes = yield* Effect.all([driver.savePositions(request), other.savePositions(request)], {
          concurrency: 2
        })
        assert.deepStrictEqual(outcomes.flat().toSorted(), ["Behind", "Saved"])
      }
    })
  )

  law(
    "a batch of positions has an outcome for each: of older owners and missing sessions none is stored",
    Effect.fnUntraced(function*({ driver, other }) {
      for (const id of ["a", "b", "c"]) yield* driver.putSession(row(id, { generation: id === "b" ? 2 : 1 }))
      const outcomes = yield* other.savePositions([
        position("a", 5),
        position("b", 5),
        position("nowhere", 5),
        position("c", 5),
        position("a", 6),
        position("a", 4),
        position("b", 7, { generation: 2 })
      ])
      assert.deepStrictEqual(outcomes, ["Saved", "Fenced", "Missing", "Saved", "Saved", "Behind", "Saved"])
      const positions = yield* Effect.forEach(["a", "b", "c", "nowhere"], (id) => positionOf(driver, id))
      assert.deepStrictEqual(positions, ["at 6", "at 7", "at 5", undefined])
    })
  )
}

export const nodeLaws = (law: Law): void => {
  law(
    "nodes are seen until they are forgotten",
    Effect.fnUntraced(function*({ driver, other }) {
      assert.deepStrictEqual(yield* driver.nodes, [])
      yield* driver.touchNode(NODE, T + 1)
      yield* other.touchNode(OTHER, T + 2)
      yield* driver.touchNode(NODE, T + 3)
      const seen = Effect.map(driver.nodes, (nodes) => nodes.toSorted((a, b) => a.seenAt - b.seenAt))
      assert.deepStrictEqual(yield* seen, [{ node: OTHER, seenAt: T + 2 }, { node: NODE, seenAt: T + 3 }])
      yield* driver.forgetNode(OTHER)
      yield* driver.forgetNode("never seen")
      assert.deepStrictEqual(yield* seen, [{ node: NODE, seenAt: T + 3 }])
    })
  )

  law(
    "a node is nudged once for each session that something happened to",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* driver.nudge(OTHER, "a")
      yield* driver.nudge(OTHER, "b")
      yield* driver.nudge(OTHER, "a")
      yield* driver.nudge(NODE, "c")
      const take = (limit = 10) => Effect.map(other.takeNudges(OTHER, limit), (sessions) => sessions.toSorted())
      assert.deepStrictEqual(yield* take(), ["a", "b"])
      assert.deepStrictEqual(yield* take(), [])
      for (const n of numbers(1, 5)) yield* driver.nudge(OTHER, `session ${n}`)
      const [first, second, third] = [yield* take(2), yield* take(2), yield* take(2)]
      assert.deepStrictEqual([first.length, second.length, third.length], [2, 2, 1])
      assert.deepStrictEqual([...first, ...second, ...third].toSorted(), numbers(1, 5).map((n) => `session ${n}`))
      assert.deepStrictEqual(yield* driver.takeNudges(NODE, 10), ["c"])
    })
  )

  law(
    "those that take nudges at once take each once",
    Effect.fnUntraced(function*({ driver, other }) {
      const sessions = numbers(10, 39).map(String)
      yield* Effect.forEach(sessions, (session) => driver.nudge(NODE, session), { concurrency: 5, discard: true })
      const taken = yield* Effect.forEach(numbers(1, 8), (n) => (n % 2 === 0 ? driver : other).takeNudges(NODE, 5), {
        concurrency: "unbounded"
      })
      const rest = yield* driver.takeNudges(NODE, 100)
      assert.deepStrictEqual([...taken.flat(), ...rest].toSorted(), sessions)
    })
  )

  law(
    "appends nudge the owner, if it is another than who appends",
    Effect.fnUntraced(function*({ driver, other }) {
      yield* open(driver, "a", 1, NODE)
      yield* open(other, "b", 1, OTHER)
      yield* open(other, "c", 1, OTHER)
      yield* open(other, "full", 1, OTHER)
      const batch = [
        message("a"),
        message("b"),
        message("b"),
        message("full", { maxMessages: 0 }),
        message("missing")
      ]
      yield* driver.append(batch, undefined, NODE)
      assert.deepStrictEqual(yield* driver.takeNudges(NODE, 10), [])
      assert.deepStrictEqual(yield* other.takeNudges(OTHER, 10), ["b"])

      // The owner that there is now.
      yield* open(driver, "b", 2, NODE)
      yield* append(driver, "b")
      assert.deepStrictEqual(yield* other.takeNudges(OTHER, 10), [])
      yield* other.append([message("b")], undefined, OTHER)
      assert.deepStrictEqual(yield* driver.takeNudges(NODE, 10), ["b"])
    })
  )

  law(
    "a forgotten node's nudges are forgotten",
    Effect.fnUntraced(function*({ driver }) {
      yield* driver.nudge("n%", "a")
      yield* driver.nudge("n%x", "b")
      yield* driver.forgetNode("n%")
      assert.deepStrictEqual(yield* driver.takeNudges("n%", 10), [])
      assert.deepStrictEqual(yield* driver.takeNudges("n%x", 10), ["b"])
    })
  )

  law(
    "whoever watches is called when there are nudges, as long as it watches",
    Effect.fnUntraced(function*({ driver, other }) {
      const watching = yield* Scope.make()
      let calls = 0
      let called = yield* Deferred.make<void>()
      const listener = () => {
        calls++
        Deferred.doneUnsafe(called, Exit.void)
      }
      yield* Scope.provide(other.watch(OTHER, listener), watching)
      /** Waits for calls until one was not in vain. */
      const nudged = Effect.gen(function*() {
        while (true) {
          yield* Deferred.await(called)
          called = yield* Deferred.make<void>()
          const sessions = yield* other.takeNudges(OTHER, 10)
          if (sessions.length > 0) return sessions
        }
      })
      yield* driver.nudge(OTHER, "a")
      assert.deepStrictEqual(yield* nudged, ["a"])
      yield* open(other, "b", 1, OTHER)
      yield* driver.append([message("b")], undefined, NODE)
      assert.deepStrictEqual(yield* nudged, ["b"])

      // The same session again, as it has been taken since.
      yield* driver.nudge(OTHER, "a")
      assert.deepStrictEqual(yield* nudged, ["a"])

      yield* Scope.close(watching, Exit.void)
      const callsThen = calls
      const witness = yield* Deferred.make<void>()
      yield* other.watch(OTHER, () => Deferred.doneUnsafe(witness, Exit.void))
      yield* driver.nudge(OTHER, "c")
      yield* Deferred.await(witness)
      assert.strictEqual(calls, callsThen)
    })
  )
}
