/**
 * Messages both ways between a server on a store that is being broken and its clients in memory, and what became of
 * each of them: what the senders were told, and what the handlers saw.
 */
import { assert } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import type { WebSocketError } from "resilient-websocket"
import { byToken, type Client, clientOn, makeStore, numbered, serverOn, type Store, turn, until } from "./harness.ts"
import { makeNetwork } from "./harnessNetwork.ts"

/** One session's numbered messages: what was sent, what came of it, and what its handler saw, in order. */
class Line {
  readonly session: string
  next = 0
  readonly accepted = new Set<number>()
  readonly inDoubt = new Set<number>()
  readonly refused = new Set<number>()
  readonly handled: Array<number> = []

  constructor(session: string) {
    this.session = session
  }

  /** Each accepted message was handled, none twice, in order; and no other, but for those in doubt. */
  check(): void {
    for (const [i, value] of this.handled.entries()) {
      const previous = this.handled[i - 1] ?? -1
      assert.isAbove(value, previous, `${this.session}: ${value} was handled after ${previous}`)
      assert.isFalse(this.refused.has(value), `${this.session}: ${value} was refused, and handled`)
    }
    assert.deepStrictEqual(this.missing, [], `${this.session}: accepted and lost`)
  }

  get missing(): ReadonlyArray<number> {
    const handled = new Set(this.handled)
    return [...this.accepted].filter((value) => !handled.has(value))
  }
}

/** To one session. Half of what its outbox may hold. */
const MOST_UNDER_WAY = 500

export interface TrafficOptions {
  readonly sessions?: number
}

/** A server on `store`, with traffic that goes on until `end`. */
export const startTraffic = Effect.fnUntraced(function*(store: Store, options: TrafficOptions = {}) {
  const network = yield* makeNetwork
  const sessions = numbered(options.sessions ?? 4, "session-")
  const toClient = new Map(sessions.map((session) => [session, new Line(`to ${session}`)]))
  const toServer = new Map(sessions.map((session) => [session, new Line(`from ${session}`)]))
  const lineOf = (lines: Map<string, Line>, session: string): Line =>
    lines.get(session) ?? assert.fail(`no such session: ${session}`)
  const failures: Array<WebSocketError.WebSocketError> = []
  let isOver = false

  const server = yield* serverOn(network.context, {
    authenticate: byToken,
    onMessage: (text, { session }) => Effect.sync(() => lineOf(toServer, session).handled.push(Number(text)))
  }, { store })
  const clients = yield* Effect.forEach(sessions, (session) =>
    Effect.tap(
      // After an outage each is back soon, and does not wait for a minute by chance.
      Effect.flatMap(makeStore({ breaker: { endpoint: { openCap: "1 second" } } }), (clientStore) =>
        clientOn(network.context, {
          token: session,
          reconnect: { cap: "1 second" },
          onMessage: (text) =>
            Effect.sync(() => lineOf(toClient, session).handled.push(Number(text)))
        }, { store: clientStore })),
      (client) =>
        client.awaitConnected()
    ))

  /** One message from the server; every fourth under a key, and that again and again until it is known. */
  const sendOne = Effect.fnUntraced(function*(line: Line, session: string) {
    // A client that was cut is away for a second or more: by then an outbox could be full.
    if (line.accepted.size - line.handled.length >= MOST_UNDER_WAY) return
    const value = line.next++
    if (value % 4 === 0) {
      const once = server.send(session, String(value), { id: `key-${value}` })
      yield* Effect.retry(Effect.tapError(once, (error) => Effect.sync(() => failures.push(error))), {
        while: () => !isOver
      }).pipe(Effect.matchEffect({
        onSuccess: () => Effect.sync(() => line.accepted.add(value)),
        onFailure: () => Effect.sync(() => line.inDoubt.add(value))
      }))
      return
    }
    const exit = yield* Effect.exit(server.send(session, String(value)))
    if (Exit.isSuccess(exit)) {
      line.accepted.add(value)
      return
    }
    const [reason] = exit.cause.reasons
    if (reason?._tag !== "Fail") return assert.fail(`a send ended with ${String(exit.cause)}`)
    failures.push(reason.error)
    const isInDoubt = reason.error._tag === "resilient-websocket/MessageQueueError" && reason.error.inDoubt === true
    ;(isInDoubt ? line.inDoubt : line.refused).add(value)
  })

  /** Three messages from a client, whose queue can't hold many more that are not handled. */
  const sendFromClient = Effect.fnUntraced(function*(line: Line, client: Client) {
    const values = [line.next++, line.next++, line.next++]
    const receipts = yield* client.sendAll(values.map(String))
    for (const receipt of receipts) yield* receipt.handled
    for (const value of values) line.accepted.add(value)
  })

  const untilOver = <E>(effect: Effect.Effect<void, E>) =>
    Effect.repeat(Effect.andThen(effect, turn), { until: () => isOver })

  const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
  for (const [i, session] of sessions.entries()) {
    const client = clients[i] ?? assert.fail("a client a session")
    fibers.push(
      yield* Effect.forkScoped(untilOver(sendOne(lineOf(toClient, session), session))),
      yield* Effect.forkScoped(untilOver(sendFromClient(lineOf(toServer, session), client)))
    )
  }

  const lines = [...toClient.values(), ...toServer.values()]
  const accepted = () => lines.reduce((sum, line) => sum + line.accepted.size, 0)

  return {
    server,
    clients,
    failures,
    accepted,
    /** Breaks the connections of all clients, who come back. */
    cutClients: Effect.sync(() => network.links.slice(-sessions.length).forEach((link) => link.cut())),
    /** Waits until every session has had so many more messages accepted, either way. */
    more: (count: number) =>
      Effect.suspend(() => {
        const before = lines.map((line) => line.accepted.size)
        return until(`${count} more messages were accepted each way`, () =>
          lines.every((line, i) => line.accepted.size >= (before[i] ?? 0) + count))
      }),
    /** Ends it, waits until all that was accepted is handled, and checks that nothing was lost, repeated or swapped. */
    end: Effect.gen(function*() {
      isOver = true
      for (const fiber of fibers) yield* Fiber.join(fiber)
      yield* until("all accepted messages are handled", () => lines.every((line) => line.missing.length === 0))
      for (const line of lines) line.check()
    })
  }
})

/**
 * All of these are typed failures that blame the store; or say that an outbox is full, as it may be while no ack can be
 * stored.
 */
export const assertOfTheStore = (failures: ReadonlyArray<WebSocketError.WebSocketError>): void => {
  const others = failures.filter(({ _tag }) => _tag !== "resilient-websocket/QueueOverflowError")
  assert.isNotEmpty(others)
  for (const error of others) {
    assert.oneOf(error._tag, ["resilient-websocket/MessageQueueError", "resilient-websocket/DeduplicationError"])
    assert.deepInclude(error, { reason: "store" })
  }
}
