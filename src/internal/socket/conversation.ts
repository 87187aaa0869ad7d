/**
 * Conversations over a session, for `ResilientSocket`: when one begins and ends, and which frames belong to it. A
 * session can lose its state at one side and go on; then frames from before must not pass for frames from after. Knows
 * nothing of Effect's Socket.
 *
 * The client begins with `{open: id}`, and the server answers with the same. What comes before that answer belongs to
 * an earlier conversation. A gap in the offsets of the frames ends the conversation.
 */
import { Cause, Duration, Effect, Exit, FiberSet, Latch, Random, Scope, Stream } from "effect"
import { CloseCode } from "../../core/Protocol.ts"
import type { Incoming, Receipt } from "../../Message.ts"
import type { ResilientClient } from "../../ResilientClient.ts"
import type { ResilientServer } from "../../ResilientServer.ts"
import type { Frame } from "../../ResilientSocket.ts"
import type { ShutdownError, WebSocketError } from "../../WebSocketError.ts"
import { fullJitter } from "../kit/backoff.ts"
import { makeId } from "../kit/ids.ts"
import { inWords, makeRareLog, wordsOf } from "../kit/rareLog.ts"
import { type Data, type End, type Ending, Line } from "./frameLine.ts"

/** How many idle lanes are kept for the next messages. */
const spareLanes = 16
/** From IANA's registry of WebSocket close codes, like 1001 and 1011 elsewhere in this file. */
const serviceRestart = 1012
const hole = { code: 1011, reason: "frames were lost" }
/** A single frame must not expire: that would leave a gap. */
const forever = { ttl: Duration.infinity }
const now = { startImmediately: true }

/** The client's end, until the scope closes: one conversation after another. */
export const makeClientEnd = Effect.fnUntraced(function*(client: ResilientClient<Frame, Frame>) {
  const random = yield* Random.Random
  const writable = yield* Latch.make(false)
  const line = new Line()
  let current: string | undefined
  let isAccepted = false
  let isConnected = false
  /** Whether a server may know the conversation: if the session then begins anew, the conversation is lost. */
  let isExposed = false

  const lose = (ending: Ending): void => {
    current = undefined
    isAccepted = false
    writable.closeUnsafe()
    line.end(ending)
  }

  const receive = ({ message, messageId, volatile }: Incoming<Frame>): Effect.Effect<void> => {
    if (isOpen(message)) {
      if (message.open === current) {
        isAccepted = true
        line.begin(messageId)
      }
      return Effect.void
    }
    if (volatile || !isAccepted) return Effect.void
    if (!line.follows(messageId)) return Effect.sync(() => lose(hole))
    if (isData(message)) return line.offer(message)
    return Effect.sync(() => lose({ code: message.close, reason: message.reason }))
  }

  const send = (frame: Frame) => Effect.flatMap(client.send(frame, forever), wasTaken)

  const open = Effect.gen(function*() {
    if (current !== undefined) return
    const state = yield* client.state
    if (state._tag === "Stopped") return yield* Effect.fail(state.error)
    const id = makeId(random)
    current = id
    isExposed = isConnected
    line.begin(undefined)
    yield* Effect.onError(send({ open: id }), () => Effect.sync(() => lose({ cause: "not opened" })))
    if (current === id) writable.openUnsafe()
  })

  /** Ends the last conversation: writers that wait for another fail. */
  const leave = (reason: string): void => {
    lose({ code: CloseCode.normal, reason })
    writable.openUnsafe()
  }

  const watch = Stream.runForEach(client.states, (state) =>
    Effect.sync(() => {
      isConnected = state._tag === "Connected"
      if (state._tag === "Closed") leave("the client is shut down")
      else if (state._tag === "Stopped") lose(endingOfStop(state.error))
      else if (state._tag === "Connected" && isExposed && state.result === "fresh") {
        lose({ code: serviceRestart, reason: `the session began anew (${state.reason})` })
      } else isExposed ||= isConnected
    }))

  const whenOpen = (write: Effect.Effect<void, unknown>) =>
    writable.whenOpen(Effect.suspend(() => current === undefined ? Effect.fail(line.ending) : write))
  const close = (code: number, reason: string) =>
    Effect.andThen(send({ close: code, reason }), Effect.sync(() => lose({ code, reason })))

  yield* consume(client, receive)
  yield* Effect.forkScoped(watch, now)
  yield* Effect.addFinalizer(() => {
    const goodbye = current === undefined ? Effect.void : send({ close: CloseCode.normal, reason: "" })
    leave("the socket's scope is closed")
    return Effect.forkDetach(Effect.ignore(goodbye), now)
  })

  const end: End = {
    open,
    line,
    write: (data) => whenOpen(send(data)),
    close: (code, reason) => whenOpen(close(code, reason))
  }
  return end
})

/** Runs `handler` for each conversation that a client opens. Never ends by itself. */
export const serve = <R>(
  server: ResilientServer<Frame, Frame>,
  handler: (end: End, session: string) => Effect.Effect<unknown, unknown, R>
): Effect.Effect<never, never, R> =>
  Effect.scoped(Effect.gen(function*() {
    const fork = yield* FiberSet.makeRuntime<R, void, never>()
    const rare = yield* makeRareLog
    /** Each session's newest conversation, even if that is over. */
    const lines = new Map<string, Line>()
    let isOver = false

    const send = (session: string, frame: Frame) => Effect.flatMap(server.send(session, frame, forever), wasTaken)

    /** Sends a frame that the client must get: tries again while the queue is full. */
    const tell = (session: string, frame: Frame) =>
      Effect.retry(send(session, frame), { schedule: fullJitter(100, 10_000), while: isPassing })

    const hangUp = (session: string, line: Line, code: number, reason: string): Effect.Effect<void, unknown> =>
      Effect.suspend(() => {
        if (line.ending !== undefined) return Effect.void
        line.end({ code, reason })
        return tell(session, { close: code, reason })
      })

    const handle = (session: string, line: Line) => {
      const check = Effect.suspend(() => line.ending === undefined ? Effect.void : Effect.fail(line.ending))
      const end: End = {
        open: check,
        line,
        write: (data) => Effect.andThen(check, send(session, data)),
        close: (code, reason) => hangUp(session, line, code, reason)
      }
      return Effect.suspend(() => handler(end, session)).pipe(
        // Detached: interrupting the handler must not wait for room in the queue.
        Effect.onExit((exit) => Effect.forkDetach(Effect.ignore(hangUp(session, line, codeOf(exit), "")), now)),
        Effect.catchCause((cause) =>
          Cause.hasInterruptsOnly(cause)
            ? Effect.void
            : Effect.sync(() => rare.error("socket", `the socket of session ${session} failed: ${inWords(cause)}`))
        ),
        Effect.asVoid
      )
    }

    const begin = Effect.fnUntraced(function*(session: string, id: string, messageId: string | undefined) {
      if (isOver) return yield* Effect.never // until another `serve` takes it
      lines.get(session)?.end({ code: CloseCode.replaced, reason: "the client opened another conversation" })
      const line = new Line()
      line.begin(messageId)
      lines.set(session, line)
      yield* tell(session, { open: id }).pipe(
        Effect.onError(() => Effect.sync(() => line.end({ code: 1011, reason: "not opened" }))),
        // At a shutdown, leave it unhandled, so that the next server answers.
        Effect.catchIf(isShutdown, () => Effect.never)
      )
      if (isOver) return yield* hangUp(session, line, 1001, "")
      fork(handle(session, line))
    })

    /** Ends a conversation that was opened at an earlier server, so that the client opens another. */
    const refuse = (session: string): Effect.Effect<void, unknown> => {
      const line = new Line()
      lines.set(session, line)
      return hangUp(session, line, serviceRestart, "the conversation is not known here")
    }

    const receive = ({ message, messageId, session, volatile }: Incoming<Frame>): Effect.Effect<void, unknown> => {
      if (isOpen(message)) return begin(session, message.open, messageId)
      const line = lines.get(session)
      if (line === undefined) return refuse(session)
      if (volatile || line.ending !== undefined) return Effect.void
      if (!line.follows(messageId)) return hangUp(session, line, hole.code, hole.reason)
      if (isData(message)) return line.offer(message)
      return Effect.sync(() => line.end({ code: message.close, reason: message.reason }))
    }

    /** When a session comes back from a store, its client may be in a conversation that nobody has any more. */
    const onConnected = Effect.fnUntraced(function*(session: string) {
      if (lines.has(session)) return
      const { generation } = yield* server.sessionStats(session)
      if (generation > 1 && !lines.has(session)) yield* refuse(session)
    })

    fork(Stream.runForEach(server.connections, ({ _tag, session }) => {
      if (_tag === "Connected") fork(Effect.ignore(onConnected(session)))
      if (_tag === "Ended") {
        lines.get(session)?.end({ code: CloseCode.sessionEnded, reason: "the session ended" })
        lines.delete(session)
      }
      return Effect.void
    }))
    yield* consume(server, receive)
    yield* Effect.addFinalizer(() => Effect.sync(() => void (isOver = true)))
    return yield* Effect.never
  }))

/** For each server or client, the effect that stops the current consumer of its messages. */
const consumers = new WeakMap<object, Effect.Effect<void>>()

/**
 * Gives the messages of a server or client to `receive`, one at a time for each session, until another call takes over.
 * Outlives the caller's scope: a shutdown waits until every message is handled, if only by being dropped.
 */
const consume = Effect.fnUntraced(function*(
  owner: { readonly messages: Stream.Stream<Incoming<Frame>> },
  receive: (incoming: Incoming<Frame>) => Effect.Effect<void, unknown>
) {
  yield* consumers.get(owner) ?? Effect.void
  const scope = yield* Scope.make()
  consumers.set(owner, Scope.close(scope, Exit.void))
  const fork = yield* Scope.provide(FiberSet.makeRuntime<never, void, never>(), scope)
  const rare = yield* Scope.provide(makeRareLog, scope)
  // A session with a slow reader must not hold up the others, so there is always one more lane than messages that are
  // being received.
  let idle = 0
  const lane: Effect.Effect<void> = Effect.suspend(() => {
    idle++
    return Stream.runForEachWhile(owner.messages, (incoming) => {
      if (--idle === 0) fork(lane)
      return receive(incoming).pipe(
        // The session is gone, so nobody is left to tell.
        Effect.catch((error) =>
          Effect.sync(() =>
            rare.warn("given up", `a socket of session ${incoming.session} is given up: ${wordsOf(error)}`)
          )
        ),
        Effect.map(mayStay)
      )
    })
  })
  const mayStay = () => {
    if (idle >= spareLanes) return false
    idle++
    return true
  }
  fork(lane)
})

const isOpen = (frame: Frame): frame is Extract<Frame, { readonly open: string }> =>
  typeof frame === "object" && "open" in frame

const isData = (frame: Frame): frame is Data => typeof frame === "string" || frame instanceof Uint8Array

/** Fails if the queue's policy dropped the frame at once. */
const wasTaken = (receipt: Receipt): Effect.Effect<void, Error> =>
  receipt._tag === "Skipped" ? Effect.fail(new Error(`the frame was skipped (${receipt.reason})`)) : Effect.void

const isPassing = (error: WebSocketError | Error): boolean =>
  !("_tag" in error) || error._tag === "resilient-websocket/QueueOverflowError" ||
  (error._tag === "resilient-websocket/MessageQueueError" && error.reason === "store")

const isShutdown = (error: WebSocketError | Error): error is ShutdownError =>
  "_tag" in error && error._tag === "resilient-websocket/ShutdownError"

/** The close code for how a server's handler ended. */
const codeOf = (exit: Exit.Exit<unknown, unknown>): number => {
  if (Exit.isSuccess(exit)) return CloseCode.normal
  return Cause.hasInterruptsOnly(exit.cause) ? 1001 : 1011
}

const endingOfStop = (error: { readonly _tag: string; readonly message: string }): Ending =>
  error._tag === "resilient-websocket/SessionNotFoundError"
    ? { code: CloseCode.sessionEnded, reason: error.message }
    : { cause: error }
