/** Calls the user's functions for manager and client: listeners, `fallbackSend`, `parse`, handlers and retries. */
import { Duration, Effect, Exit, Schedule, type Schema } from "effect"
import type { WebSocket } from "ws"
import { defaultHandlerRetry } from "../internal/handle/unhandled.ts"
import { fullJitter } from "../internal/kit/backoff.ts"
import * as Check from "../internal/kit/options.ts"
import { anyJson } from "../internal/kit/schemas.ts"
import type { Incoming } from "../Message.ts"
import * as WebSocketError from "../WebSocketError.ts"
import { Emitter, guarded, isThenable } from "./emitter.ts"
import { MessageRejected } from "./errors.ts"
import type { DeadLetter, Receipt } from "./models.ts"
import type { CommonOptions, Listeners, MessageContext, ReliableSendOptions, RetryOptions } from "./options.ts"
import { asHandler, Reporter, type Run, runWith } from "./running.ts"

/** The listeners and `fallbackSend` of one manager or client. */
export class Hooks<Out, Events extends { readonly deadLetter: DeadLetter<unknown> }> {
  readonly reporter = new Reporter()
  readonly emitter: Emitter<Events>
  private readonly fallbackSend: CommonOptions<never, Out>["fallbackSend"]
  /** How many calls of `fallbackSend` are not done. Only counted, as one may never end. */
  private falling = 0
  private onSettled: () => void = () => {}

  constructor({ fallbackSend, on = {} }: Pick<CommonOptions<never, Out>, "fallbackSend"> & {
    readonly on?: Listeners<Events> | undefined
  }) {
    this.fallbackSend = fallbackSend
    this.emitter = new Emitter((event, fault) => this.reporter.warn(`a listener of ${event} failed`, fault))
    for (const event of Object.keys(on) as Array<keyof Events & string>) { // its keys are those of its type
      const listener = on[event]
      if (listener !== undefined) this.emitter.on(event, listener)
    }
  }

  readonly deadLetter = (letter: Events["deadLetter"]): void => {
    if (letter.direction === "out") this.fallBack(letter as DeadLetter<Out>)
    this.emitter.emit("deadLetter", letter)
  }

  /** Called for a message that was skipped. */
  skipped(message: Out, session: string, messageId: string): void {
    this.fallBack({
      direction: "out",
      session,
      messageId: messageId === "" ? undefined : messageId,
      reason: "skipped",
      detail: undefined,
      message,
      payload: message,
      maybeHandled: false,
      cause: undefined,
      atMillis: Date.now()
    })
  }

  /** Waits until all calls of `fallbackSend` are done. */
  settled(): Promise<void> {
    return new Promise((resolve) => {
      this.onSettled = resolve
      if (this.falling === 0) resolve()
    })
  }

  private fallBack(letter: DeadLetter<Out>): void {
    const { fallbackSend } = this
    if (fallbackSend === undefined) return
    const done = guarded(
      () => fallbackSend(letter.message as Out, letter), // it was sent, so it can be decoded
      (fault) => this.reporter.warn("fallbackSend failed", fault)
    )
    if (done === undefined) return
    this.falling++
    void done.then(() => {
      if (--this.falling === 0) this.onSettled()
    })
  }
}

/** Decodes any JSON, then calls `parse` with it. */
export const incomingSchema = (parse: ((value: unknown) => unknown) | undefined): Schema.Codec<unknown, unknown> =>
  anyJson(
    parse === undefined ? Exit.succeed : (value) => {
      try {
        const parsed = parse(value)
        if (!isThenable(parsed)) return Exit.succeed(parsed)
        void guarded(() => parsed, () => {})
        return Exit.fail("parse: it must not return a promise")
      } catch (fault) {
        return Exit.fail(`parse: ${String(fault)}`)
      }
    }
  )

export const outgoingSchema = anyJson(Exit.succeed)

export const retryOf = (options: RetryOptions | undefined): Schedule.Schedule<unknown, unknown> => {
  if (options === undefined) return defaultHandlerRetry
  const pauses = fullJitter(
    Check.millis("handlerRetry.base", options.base, "1 second"),
    Check.millis("handlerRetry.cap", options.cap, "60 seconds")
  )
  return Schedule.upTo(pauses, { times: Check.count("handlerRetry.attempts", options.attempts, 5) - 1 })
}

/** The error for a peer when the user's function threw: final, unless what it threw has `retryable: true`. */
export const turnedAway = (fault: unknown): WebSocketError.HandshakeError => {
  if (fault instanceof WebSocketError.HandshakeError) return fault
  const retryable = typeof fault === "object" && fault !== null && "retryable" in fault && fault.retryable === true
  return new WebSocketError.HandshakeError({
    reason: retryable ? "overloaded" : "unauthorized",
    detail: fault instanceof Error ? fault.message : String(fault),
    retryable
  })
}

/** Sends a handler's reply. */
type Reply<Out> = (message: Out, options: ReliableSendOptions | undefined, run: Run) => Promise<Receipt>

/** Calls a user's function, and ends when its promise does. A function that returns none costs no promise. */
export const calling = (call: () => unknown, onInterrupt: () => void = () => {}): Effect.Effect<void, unknown> =>
  Effect.suspend(() => {
    let result: unknown
    try {
      result = call()
    } catch (fault) {
      return Effect.fail(fault)
    }
    if (!isThenable(result)) return Effect.void
    const promise = result
    return Effect.callback<void, unknown>((resume) => {
      promise.then(() => resume(Effect.void), (fault: unknown) => resume(Effect.fail(fault)))
      return Effect.sync(onInterrupt)
    })
  })

export const handle = <In, Out>(
  handler: (message: In, context: MessageContext<Out>) => unknown,
  incoming: Incoming<In>,
  peer: Pick<MessageContext<Out>, "principal" | "data" | "ws">,
  reply: Reply<Out>
): Effect.Effect<void, unknown> =>
  Effect.withFiber((fiber) => {
    const context = new HandlerContext<In, Out>(incoming, peer, (message, options) =>
      reply(message, options, runWith(fiber.context)))
    const handled = calling(
      () =>
        asHandler(fiber.context, () =>
          handler(incoming.message, context)),
      () => context.abort()
    )
    return Effect.mapError(handled, rejected)
  })

const rejected = (fault: unknown): unknown =>
  fault instanceof MessageRejected ? new WebSocketError.MessageRejected({ detail: fault.detail }) : fault

class HandlerContext<In, Out> implements MessageContext<Out> {
  readonly session: string
  readonly principal: string | undefined
  readonly data: unknown
  readonly messageId: string | undefined
  readonly volatile: boolean
  readonly ws: WebSocket | undefined
  readonly reply: MessageContext<Out>["reply"]
  private controller: AbortController | undefined
  private isOver = false

  constructor(
    incoming: Incoming<In>,
    { data, principal, ws }: Pick<MessageContext<Out>, "principal" | "data" | "ws">,
    reply: MessageContext<Out>["reply"]
  ) {
    this.session = incoming.session
    this.principal = principal
    this.data = data
    this.messageId = incoming.messageId
    this.volatile = incoming.volatile
    this.ws = ws
    this.reply = reply
  }

  /** Made on first use, as most handlers never look at it. */
  get signal(): AbortSignal {
    this.controller ??= new AbortController()
    if (this.isOver) this.abort()
    return this.controller.signal
  }

  abort(): void {
    this.isOver = true
    this.controller?.abort(new Error("the handler is to end: nobody waits for it any more"))
  }
}

/** In ms. The input must have been checked. */
export const toMillis = (input: Duration.Input): number => Duration.toMillis(Duration.fromInputUnsafe(input))
