/**
 * The store in memory keeps the laws of stores, and the laws notice one that does not. The other stores of this package
 * are in `store/services.test.ts`.
 */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer, Option } from "effect"
import { TestClock } from "effect/testing"
import { Deduplicator, MemoryStore, MessageQueue, SessionRegistry } from "resilient-websocket"
import { StoreLaws } from "resilient-websocket/testing"
import { storeLaws } from "./support/storeLaws.ts"

storeLaws("MemoryStore", MemoryStore.layer)

type Layers = ReturnType<typeof MemoryStore.layer>
type Change = (layer: Layers) => Layers

const queue = (change: (queue: MessageQueue.Interface) => Partial<MessageQueue.Interface>): Change => (layer) =>
  Layer.effect(
    MessageQueue.MessageQueue,
    Effect.map(MessageQueue.MessageQueue, (service) => ({ ...service, ...change(service) }))
  ).pipe(
    Layer.provideMerge(layer)
  )

const registry =
  (change: (registry: SessionRegistry.Interface) => Partial<SessionRegistry.Interface>): Change => (layer) =>
    Layer.effect(
      SessionRegistry.SessionRegistry,
      Effect.map(SessionRegistry.SessionRegistry, (service) => ({ ...service, ...change(service) }))
    ).pipe(
      Layer.provideMerge(layer)
    )

const dedup = (change: (dedup: Deduplicator.Interface) => Partial<Deduplicator.Interface>): Change => (layer) =>
  Layer.effect(
    Deduplicator.Deduplicator,
    Effect.map(Deduplicator.Deduplicator, (service) => ({ ...service, ...change(service) }))
  ).pipe(
    Layer.provideMerge(layer)
  )

const all = () => true
const nothingRead: MessageQueue.ReadResult = { slots: [], expired: [], oversized: [], more: false }

/** What a store does wrong, how, and the laws that say so. */
const mistakes: ReadonlyArray<readonly [name: string, change: Change, laws: ReadonlyArray<string>]> = [
  [
    "gives an outbox that is made anew its old epoch",
    queue((inner) => ({
      open: (...args) => Effect.map(inner.open(...args), (at) => ({ ...at, epoch: "one for all" }))
    })),
    ["an outbox is made with an epoch", "an outbox that was removed is made anew"]
  ],
  [
    "lets older owners read",
    queue((inner) => ({ read: (...args) => Effect.orElseSucceed(inner.read(...args), () => nothingRead) })),
    ["once a newer generation has opened", "the generation that an attach gives"]
  ],
  [
    "lets older owners ack",
    queue((inner) => ({
      ack: (...args) =>
        Effect.orElseSucceed(inner.ack(...args), () => ({ released: 0, newestEnqueuedAt: undefined, failed: [] }))
    })),
    ["once a newer generation has opened", "the generation that an attach gives"]
  ],
  [
    "appends a batch message by message",
    queue((inner) => ({
      append: Effect.fnUntraced(function*(session, messages) {
        const results = yield* Effect.forEach(
          messages,
          (message) => Effect.andThen(Effect.yieldNow, inner.append(session, [message]))
        )
        return results[0] ?? { epoch: "", first: undefined, enqueuedAt: 0, dropped: [] }
      })
    })),
    ["those that append at once", "a batch that does not fit"]
  ],
  [
    "makes an outbox for whoever appends",
    queue((inner) => ({
      append: (session, messages) =>
        Effect.catchTag(
          inner.append(session, messages),
          "resilient-websocket/MessageQueueError",
          () => Effect.andThen(inner.open(session, 1), inner.append(session, messages))
        )
    })),
    ["an append to a session that was never opened", "a sender that waits when the session is removed"]
  ],
  [
    "tells nobody of appends",
    queue(() => ({ onAppend: () => Effect.void })),
    ["an append needs no ownership"]
  ],
  [
    "tells of moves that were none",
    queue((inner) => {
      const listeners: Array<(session: string, generation: number) => void> = []
      return {
        onMoved: (listener) => Effect.sync(() => void listeners.push(listener)),
        open: (...args) =>
          Effect.tap(inner.open(...args), () => Effect.sync(() => listeners.forEach((tell) => tell(args[0], args[1]))))
      }
    }),
    ["news of moves"]
  ],
  [
    "does not say what it dropped",
    queue((inner) => ({
      append: (...args) => Effect.map(inner.append(...args), (appended) => ({ ...appended, dropped: [] }))
    })),
    ["dropOldest gives back what it drops"]
  ],
  [
    "removes what is read",
    queue((inner) => ({
      read: (session, generation, after, limit) =>
        Effect.tap(
          inner.read(session, generation, after, limit),
          ({ slots }) => inner.ack(session, generation, after + slots.length, [])
        )
    })),
    ["reading removes nothing", "what a peer that lost its state"]
  ],
  [
    "goes on where the last read ended",
    queue((inner) => {
      let next = 0
      return {
        read: (session, generation, after, limit) =>
          Effect.tap(inner.read(session, generation, Math.max(next, after), limit), ({ slots }) => {
            next = Math.max(next, after) + slots.length
            return Effect.void
          })
      }
    }),
    ["reading removes nothing", "what was read can't expire"]
  ],
  [
    "forgets what a read found expired",
    queue((inner) => ({
      read: (...args) => Effect.map(inner.read(...args), (result) => ({ ...result, expired: [], oversized: [] }))
    })),
    ["what a read finds expired", "a message that the peer can't take"]
  ],
  [
    "expires what is not the caller's",
    queue((inner) => ({ expire: () => inner.expire(all) })),
    ["only sessions that the caller owns"]
  ],
  [
    "tells twice of what expired",
    queue((inner) => {
      let before: Effect.Success<ReturnType<typeof inner.expire>> = []
      return {
        expire: (owns) => Effect.map(inner.expire(owns), (found) => [...before, ...(before = found)])
      }
    }),
    ["what expires leaves a gap"]
  ],
  [
    "never expires anything",
    queue(() => ({ expire: () => Effect.succeed([]) })),
    ["what expires leaves a gap", "expired messages make room", "what others can learn"]
  ],
  [
    "counts acks one by one",
    queue((inner) => ({
      ack: (session, generation, upTo, failed) => inner.ack(session, generation, Math.min(upTo, 1), failed)
    })),
    ["an ack is cumulative"]
  ],
  [
    "keeps failed messages to itself",
    queue((inner) => ({ ack: (...args) => Effect.map(inner.ack(...args), (result) => ({ ...result, failed: [] })) })),
    ["an ack is cumulative"]
  ],
  [
    "gives back nothing when the peer lost its state",
    queue(() => ({ giveBackSent: () => Effect.succeed([]) })),
    ["what a peer that lost its state"]
  ],
  [
    "gives offsets again that the peer has",
    queue((inner) => ({ recover: (session, generation) => inner.open(session, generation) })),
    ["offsets that the peer has"]
  ],
  [
    "forgets what was in an outbox that is removed",
    queue((inner) => ({
      remove: (session) => Effect.map(inner.remove(session), (gone) => ({ ...gone, messages: [] }))
    })),
    ["an outbox that is removed gives back"]
  ],
  [
    "lets a session in without its token",
    registry((inner) => ({ attach: (request) => inner.attach({ ...request, authorized: true }) })),
    ["a session is its principal's", "a token is good until"]
  ],
  [
    "lets anybody have a session",
    registry((inner) => ({ attach: (request) => inner.attach({ ...request, principal: "anybody" }) })),
    ["a session is its principal's"]
  ],
  [
    "does not number dials",
    registry((inner) => ({ attach: (request) => inner.attach({ ...request, attempt: undefined }) })),
    ["a dial that a later one"]
  ],
  [
    "says that a position is saved before it is",
    registry(() => ({ savePosition: () => Effect.void })),
    ["a position that was saved", "an older owner's position"]
  ],
  [
    "ignores an older owner's position instead of refusing it",
    registry((inner) => ({ savePosition: (...args) => Effect.ignore(inner.savePosition(...args)) })),
    ["an older owner's position", "a session that is ended fences its owner"]
  ],
  [
    "commits a position that is not ahead",
    registry((inner) => ({ commitPosition: inner.savePosition })),
    ["a position that a handler commits"]
  ],
  [
    "keeps sessions for ever",
    registry(() => ({ expire: Effect.succeed([]) })),
    ["a session outlives its connection", "a session that attaches again"]
  ],
  [
    "lets a stale connection detach",
    registry((inner) => ({
      detach: (session) => Effect.flatMap(inner.find(session), (found) => inner.detach(session, found?.generation ?? 0))
    })),
    ["a stale detach or release"]
  ],
  [
    "ends a session without fencing its owner",
    registry((inner) => ({ end: (session) => Effect.map(inner.find(session), (found) => found !== undefined) })),
    ["a session that is ended fences"]
  ],
  [
    "counts wrongly",
    registry(() => ({ count: Effect.succeed({ sessions: 0, attached: 0 }) })),
    ["sessions are counted"]
  ],
  [
    "does not compare fingerprints",
    dedup((inner) => ({ claim: ({ key, scope }) => inner.claim({ key, scope }) })),
    ["the same key with another fingerprint", "stats tell what is kept"]
  ],
  [
    "commits what somebody else holds",
    dedup((inner) => ({ commit: (claim) => Effect.as(inner.commit(claim), true) })),
    ["a claim is a lease"]
  ],
  [
    "does not renew",
    dedup(() => ({ renew: () => Effect.succeed(true) })),
    ["a lease that is renewed", "a claim is a lease"]
  ],
  [
    "keeps released keys",
    dedup(() => ({ release: () => Effect.void })),
    ["a key that is released", "no more keys are in flight"]
  ],
  [
    "forgets receipts",
    dedup(() => ({ lookup: () => Effect.succeed(Option.none()) })),
    ["a key is claimed, committed", "scope and key don't run"]
  ],
  [
    "makes one text of scope and key",
    dedup((inner) => ({
      claim: (request) => inner.claim({ ...request, scope: "", key: `${request.scope}:${request.key}` }),
      commit: (claim) => inner.commit({ ...claim, scope: "", key: `${claim.scope}:${claim.key}` })
    })),
    ["scope and key don't run"]
  ],
  [
    "takes any window",
    dedup((inner) => ({ setWindow: () => inner.setWindow(Duration.minutes(20)) })),
    ["the window can be changed"]
  ]
]

describe("the laws of stores", () => {
  it("have names of their own", () => {
    const names = StoreLaws.all.map(({ name }) => name)
    assert.strictEqual(new Set(names).size, names.length)
    assert.isAbove(names.length, 60)
  })

  it.effect.each(mistakes)("notice a store that %s", ([, change, laws]) =>
    Effect.gen(function*() {
      assert.isNotEmpty(laws)
      for (const name of laws) {
        const [law, ...others] = StoreLaws.all.filter((each) => each.name.startsWith(name))
        assert.isDefined(law, name)
        assert.isEmpty(others)
        const layer = (options: MemoryStore.Options) => change(MemoryStore.layer(options))
        // As a violation, or as the store's own error where the law expects that it succeeds: never as a defect.
        const result = yield* Effect.result(StoreLaws.check(law, { layer, passTime: TestClock.adjust }))
        assert.strictEqual(result._tag, "Failure", law.name)
      }
    }))

  it.effect("say what was expected and what came", () =>
    Effect.gen(function*() {
      const law = StoreLaws.all.find(({ name }) => name === "sessions are counted, within seconds")
      assert.isDefined(law)
      const count = registry(() => ({ count: Effect.succeed({ sessions: 7, attached: 0 }) }))
      const layer = (options: MemoryStore.Options) => count(MemoryStore.layer(options))
      const error = yield* Effect.flip(StoreLaws.check(law, { layer, passTime: TestClock.adjust }))
      assert.strictEqual(
        error.message,
        `sessions are counted, within seconds: of the sessions, expected {"sessions":3,"attached":2}, got ` +
          `{"sessions":7,"attached":0}`
      )
    }))
})
