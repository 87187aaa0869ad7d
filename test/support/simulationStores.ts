/**
 * Stores that misbehave: MessageQueue and SessionRegistry whose calls are slow, fail before they did anything, or fail
 * after they did it. What a call would have told only its caller (messages that it took out) is not lost that way:
 * that is the store's to keep, and so the laws' to test.
 */
import { Duration, Effect } from "effect"
import type * as MessageQueue from "../../src/MessageQueue.ts"
import type * as SessionRegistry from "../../src/SessionRegistry.ts"
import { MessageQueueError, SessionRegistryError } from "../../src/WebSocketError.ts"
import type { Node, Rng } from "./simulationNode.ts"

/** Chances of a call, and how slow a slow one is. */
export interface StoreFaults {
  readonly before: number
  readonly after: number
  readonly slow: number
  readonly slowMillis: number
}

export const reliable: StoreFaults = { before: 0, after: 0, slow: 0, slowMillis: 0 }

export interface Store {
  readonly rng: Rng
  /** Asked at every call. */
  readonly faults: () => StoreFaults
  /** Whether the data outlives the process. */
  readonly durable: boolean
  /** The process that uses it, if it may stand still or die: what it listens to reaches it only while it runs. */
  readonly node?: Node | undefined
}

/** A listener of this process, called from whichever. */
const at =
  <Args extends ReadonlyArray<unknown>>({ node }: Store, listener: (...args: Args) => void) => (...args: Args) => {
    if (node === undefined || node.state === "running") listener(...args)
    else node.later(() => listener(...args))
  }

const unreliable = (store: Store) =>
<A, E, F>(
  effect: Effect.Effect<A, E>,
  error: () => F,
  /** Whether the result must not be lost. */
  precious: (result: A) => boolean = () => false
): Effect.Effect<A, E | F> =>
  Effect.suspend(() => {
    const { after, before, slow, slowMillis } = store.faults()
    const { rng } = store
    if (before + after + slow === 0) return effect
    const pause = () => rng.chance(slow) ? Effect.sleep(Duration.millis(rng.int(1, slowMillis))) : Effect.void
    return Effect.gen(function*() {
      yield* pause()
      if (rng.chance(before)) return yield* Effect.fail(error())
      const result = yield* effect
      if (precious(result)) return result
      yield* pause()
      if (rng.chance(after)) return yield* Effect.fail(error())
      return result
    })
  })

const storeDown = new Error("the store is down")

export const faultyQueue = (
  store: Store,
  queue: MessageQueue.Interface,
  watch: { readonly onAppended: (session: string, size: { messages: number; bytes: number }) => void }
): MessageQueue.Interface => {
  const call = unreliable(store)
  const error = (session: string, operation: string) => () =>
    new MessageQueueError({ session, operation, reason: "store", cause: storeDown })
  return {
    durable: store.durable,
    open: (session, generation, share) => call(queue.open(session, generation, share), error(session, "open")),
    append: (session, messages) =>
      call(
        Effect.tap(queue.append(session, messages), () =>
          Effect.map(
            Effect.orElseSucceed(queue.size(session), () => undefined),
            (size) => {
              if (size !== undefined) watch.onAppended(session, size)
            }
          )),
        error(session, "append"),
        ({ dropped }) => dropped.length > 0
      ),
    read: (session, generation, after, limit) =>
      call(
        queue.read(session, generation, after, limit),
        error(session, "read"),
        ({ expired }) => expired.length > 0
      ),
    ack: (session, generation, upTo, failed) =>
      call(queue.ack(session, generation, upTo, failed), error(session, "ack"), (result) => result.failed.length > 0),
    giveBackSent: (session, generation) =>
      call(queue.giveBackSent(session, generation), error(session, "giveBackSent"), (given) => given.length > 0),
    remove: (session) => call(queue.remove(session), error(session, "remove"), ({ messages }) => messages.length > 0),
    expire: (owns) => call(queue.expire(owns), error("", "expire"), (expired) => expired.length > 0),
    find: (session, messageId) => call(queue.find(session, messageId), error(session, "find")),
    size: (session) => call(queue.size(session), error(session, "size")),
    recover: (session, generation, last) => call(queue.recover(session, generation, last), error(session, "recover")),
    onAppend: (listener) => queue.onAppend(at(store, listener)),
    onMoved: (listener) => queue.onMoved(at(store, listener)),
    progress: (requests) => call(queue.progress(requests), error("", "progress")),
    stats: queue.stats
  }
}

/** Sessions as the servers on one store have them: whose process has what was received and not handled. */
export class Tenancy {
  readonly owners = new Map<string, { readonly tenant: Tenant; readonly generation: number }>()
  /** How often a session changed between two servers, and how often the one before had not let go of it. */
  moved = 0
  forced = 0
}

/** One server, as the others on its store know it. */
export interface Tenant {
  /** Runs in that server's process. */
  readonly later: (task: () => void) => void
  readonly listeners: Set<(session: string) => void>
}

/** How long a server waits for another one to let go of a session, in ms. */
const releaseMillis = 2_000
const lookMillis = 20

/** Asks the owner for the session, if it is another one, and waits for a while. */
const awaitRelease = (tenancy: Tenancy, tenant: Tenant, session: string): Effect.Effect<void> =>
  Effect.gen(function*() {
    const owner = tenancy.owners.get(session)
    if (owner === undefined || owner.tenant === tenant) return
    for (const listener of owner.tenant.listeners) owner.tenant.later(() => listener(session))
    for (let waited = 0; waited < releaseMillis; waited += lookMillis) {
      if (tenancy.owners.get(session) !== owner) return
      yield* Effect.sleep(Duration.millis(lookMillis))
    }
  })

export const faultyRegistry = (
  store: Store,
  registry: SessionRegistry.Interface,
  watch: { readonly onSaved: (epoch: string, handled: number) => void },
  tenancy: Tenancy,
  later: (task: () => void) => void
): SessionRegistry.Interface => {
  const call = unreliable(store)
  const tenant: Tenant = { later, listeners: new Set() }
  const error = (session: string, operation: string) => () =>
    new SessionRegistryError({ session, operation, reason: "store", cause: storeDown })
  const saved = (position: SessionRegistry.StoredPosition) =>
    Effect.sync(() => {
      if (position.epoch !== null) watch.onSaved(position.epoch, position.handled)
    })
  const own = (request: SessionRegistry.AttachRequest) =>
    Effect.map(registry.attach(request), (attached) => {
      const { session } = request
      const before = tenancy.owners.get(session)?.tenant
      if (before !== undefined && before !== tenant) tenancy.forced++
      if (before !== tenant) tenancy.moved++
      tenancy.owners.set(session, { tenant, generation: attached.generation })
      return { ...attached, here: before === tenant }
    })
  return {
    durable: store.durable,
    retentionMillis: registry.retentionMillis,
    attach: (request) =>
      call(
        Effect.andThen(awaitRelease(tenancy, tenant, request.session), own(request)),
        error(request.session, "attach")
      ),
    savePosition: (session, generation, position) =>
      call(
        Effect.tap(registry.savePosition(session, generation, position), () => saved(position)),
        error(session, "savePosition")
      ),
    detach: (session, generation) => call(registry.detach(session, generation), error(session, "detach")),
    commitPosition: (session, generation, position) =>
      call(
        Effect.tap(registry.commitPosition(session, generation, position), () => saved(position)),
        error(session, "commitPosition")
      ),
    release: (session, generation) =>
      call(
        Effect.sync(() => {
          const owner = tenancy.owners.get(session)
          if (owner?.tenant === tenant && owner.generation === generation) tenancy.owners.delete(session)
        }),
        error(session, "release")
      ),
    onWanted: (listener) =>
      Effect.asVoid(Effect.acquireRelease(
        Effect.sync(() => void tenant.listeners.add(listener)),
        () => Effect.sync(() => void tenant.listeners.delete(listener))
      )),
    expire: call(registry.expire, error("", "expire"), (ended) => ended.length > 0),
    end: (session) => call(registry.end(session), error(session, "end")),
    expireNow: (session, generation) => call(registry.expireNow(session, generation), error(session, "expireNow")),
    remove: (session) => call(registry.remove(session), error(session, "remove")),
    find: (session) =>
      call(
        Effect.map(registry.find(session), (info) =>
          info === undefined ? undefined : { ...info, here: tenancy.owners.get(session)?.tenant === tenant }),
        error(session, "find")
      ),
    sessionsOf: (principal, limit) => call(registry.sessionsOf(principal, limit), error("", "sessionsOf")),
    count: call(registry.count, error("", "count"))
  }
}
