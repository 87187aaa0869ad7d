/**
 * One side of a session, sans IO: frames in, actions out, and the rules of resuming (PROTOCOL.md §4–§8). Server and
 * client use the same.
 *
 * It keeps the inbox, which outlives connections, and the flow of the connection that is open. It knows nothing of
 * where messages are stored, of sockets, handlers or timers: the shell feeds it and does what it says.
 */
import { decode, encode, encodeAck, encodeAckFields, encodeBatch, encodeMeta, encodePong } from "./Codec.ts"
import { Flow } from "./Flow.ts"
import type { Auth, Batch, Drain, End, Failure, InboxPosition, MessageMeta, OutboxPosition, Reject } from "./Frame.ts"
import { Inbox } from "./Inbox.ts"
import type { OutboxMessage, Slot } from "./Outbox.ts"
import { bulkFrameBytes, envelopeBytes, type GapReason, type Window } from "./Protocol.ts"
import { utf8Length } from "./utf8.ts"
import { Violation } from "./Violation.ts"

/** What the shell has to do. */
export type Action =
  /** Hand these messages, with offsets `first, first + 1, …`, to the handler, in order. */
  | {
    readonly t: "deliver"
    readonly epoch: string
    readonly first: number
    readonly messages: ReadonlyArray<unknown>
    readonly meta: ReadonlyArray<MessageMeta | undefined> | undefined
  }
  /** Tell the handler, in order, that `first..end` will never come. */
  | {
    readonly t: "gap"
    readonly epoch: string
    readonly first: number
    readonly end: number
    readonly reason: GapReason
  }
  | {
    readonly t: "volatile"
    readonly messages: ReadonlyArray<unknown>
    readonly meta?: Readonly<Record<string, MessageMeta>>
  }
  /** The peer handled everything up to `handled`; free it in the outbox, dead-letter the failed, then call `seen`. */
  | { readonly t: "acked"; readonly handled: number; readonly failed: ReadonlyArray<Failure> }
  /** Write this frame now, before anything else. */
  | { readonly t: "reply"; readonly frame: string }
  | Drain
  | Reject
  | Auth
  | End

export interface SessionOptions {
  readonly role: "server" | "client"
  /** What this side grants. */
  readonly window: Window
  /** Largest payload this side takes, in bytes. */
  readonly maxPayload: number
}

/** What a batch costs beside its messages: the envelope, an offset and two positions of up to 16 digits. */
const batchEnvelopeBytes = 96

export class Session {
  readonly options: SessionOptions
  readonly inbox = new Inbox()
  /** The flow of the open connection; undefined while there is none. */
  flow: Flow | undefined
  /** Whether the peer should learn our position soon. */
  ackDue = false
  private ackedHandled = 0

  constructor(options: SessionOptions) {
    this.options = options
  }

  /**
   * The handshake is done: the peer grants `window` and takes up our log at `position`; our own position, as the
   * handshake announced it, said that `announced` was handled.
   */
  open(
    window: Window,
    position: Pick<InboxPosition, "received" | "handled" | "pending">,
    announced: number
  ): void {
    this.flow = new Flow(window, position)
    // For a log that was taken up only now, nothing was announced: the peer knows where it starts.
    this.ackedHandled = Math.max(this.inbox.start, Math.min(announced, this.inbox.handled))
    this.ackDue = this.inbox.handled > this.ackedHandled
  }

  close(): void {
    this.flow = undefined
  }

  /** Takes one frame of `bytes` bytes. A violation leaves the state as it was. */
  receive(text: string, bytes: number): ReadonlyArray<Action> | Violation {
    const flow = this.flow
    if (flow === undefined) return new Violation("unexpected", "a frame before the handshake")
    if (bytes > maxFrameBytes(this.options.maxPayload)) return new Violation("tooLarge", `a frame of ${bytes} bytes`)
    const result = this.take(text, bytes, flow)
    // A peer that says anything has had our half of the handshake, and knows where we are.
    if (!(result instanceof Violation)) this.inbox.told = true
    return result
  }

  private take(text: string, bytes: number, flow: Flow): ReadonlyArray<Action> | Violation {
    const frame = decode(text)
    switch (frame.t) {
      case "violation":
        return frame
      case "batch":
        return this.receiveBatch(frame, bytes, flow)
      case "ack":
        return this.receiveAck(frame.a, frame.f, flow)
      case "pong":
        return this.receiveAck(frame.a, undefined, flow)
      case "ping":
        return [{ t: "reply", frame: this.composePong() }]
      case "seen":
        if (frame.o > this.inbox.handled) return new Violation("future", "seen what was not handled")
        this.inbox.forgetFailures(frame.o)
        // There may be room now for what an ack could not hold.
        this.ackDue ||= this.inbox.handled > this.ackedHandled
        return []
      case "gap": {
        const first = Math.max(frame.o, this.inbox.received + 1)
        const fresh = this.inbox.acceptGap(frame.o, frame.e)
        if (fresh instanceof Violation) return fresh
        this.ackDue = true
        if (!fresh) return []
        return [{ t: "gap", epoch: this.inbox.epoch ?? "", first, end: frame.e, reason: frame.reason }]
      }
      case "volatile":
        return [{ t: "volatile", messages: frame.m, ...(frame.x === undefined ? {} : { meta: frame.x }) }]
      case "end":
      case "reject":
        return [frame]
      case "drain":
        return this.options.role === "client" ? [frame] : unexpected(frame.t)
      case "auth":
        return this.options.role === "server" ? [frame] : unexpected(frame.t)
      case "hello":
      case "welcome":
        return unexpected(frame.t)
    }
  }

  /** Everything up to `offset` in the log `epoch` was handled (or given up on), `messages` of it messages. */
  handled(epoch: string, offset: number, messages: number): void {
    // Messages from a log that has been replaced since are handled, but nobody is left to tell.
    if (epoch !== this.inbox.epoch) return
    this.inbox.settle(offset, messages)
    this.ackDue = true
  }

  /**
   * Frames for slots read from the outbox after `flow.sent`, in order, a due ack with the first batch; the flow takes
   * them as sent. Stops early when the window's bytes run out: the rest is read again from the new `flow.sent`.
   */
  compose(slots: ReadonlyArray<Slot>, flow: Flow): ReadonlyArray<string> {
    const frames: Array<string> = []
    let index = 0
    while (index < slots.length) {
      const slot = slots[index] as Slot // in bounds
      if (slot.kind === "gap") {
        frames.push(encode({ t: "gap", o: slot.offset, e: slot.end, reason: slot.reason }))
        flow.sentGap(slot.end)
        index++
        continue
      }
      const taken = this.composeBatch(slots, index, slot, flow, frames)
      if (taken === 0) break
      index += taken
    }
    return frames
  }

  /** The due ack as a frame of its own, if none went with a batch. */
  composeAck(): string | undefined {
    if (!this.ackDue) return undefined
    this.ackDue = false
    // The rest has to wait until the sender has seen what it was told.
    const { failed, handled } = this.inbox.tellable
    const news = failed.filter(([offset]) => offset > this.ackedHandled)
    this.ackedHandled = handled
    return encodeAck(this.inbox.received, handled, news)
  }

  /** A pong can't carry failures, so while there are any it repeats the last ack: the next ack carries them. */
  composePong(): string {
    if (this.inbox.failedAfter(this.ackedHandled).length === 0) this.ackedHandled = this.inbox.handled
    return encodePong(this.inbox.received, this.ackedHandled)
  }

  /** One batch from the run of messages at `index`, as far as the window's bytes allow; returns how many it took. */
  private composeBatch(
    slots: ReadonlyArray<Slot>,
    index: number,
    first: OutboxMessage,
    flow: Flow,
    frames: Array<string>
  ): number {
    // With nothing in flight, the first message goes alone whatever its size; more must fit window and frame.
    const room = flow.roomBytes
    const limit = Math.min(room, flow.window.bytes, maxFrameBytes(0))
    let payloads = ""
    let meta = ""
    let size = batchEnvelopeBytes
    let extra = 0 // UTF-8 bytes beyond UTF-16 units
    let count = 0
    for (; index + count < slots.length; count++) {
      const message = slots[index + count] as Slot // in bounds
      if (message.kind === "gap") break
      const member = message.id === undefined && message.trace === undefined
        ? ""
        : encodeMeta(count, message.id, message.trace)
      const memberBytes = member === "" ? 0 : utf8Length(member)
      size += message.bytes + memberBytes + 2
      if (size > (count === 0 ? room : limit)) break
      payloads = count === 0 ? message.payload : payloads + "," + message.payload
      if (member !== "") meta = meta === "" ? member : meta + "," + member
      extra += message.bytes - message.payload.length + memberBytes - member.length
    }
    if (count === 0) return 0
    const frame = encodeBatch(first.offset, payloads, meta, this.takeAckFields())
    frames.push(frame)
    flow.sentBatch(first.offset, first.offset + count - 1, frame.length + extra)
    return count
  }

  /** Failures go in an ack of their own, so that a batch's size does not depend on them. */
  private takeAckFields(): string {
    const { handled, received } = this.inbox
    if (!this.ackDue || this.inbox.failedAfter(this.ackedHandled).length > 0) return ""
    this.ackDue = false
    this.ackedHandled = handled
    return encodeAckFields(received, handled)
  }

  private receiveBatch(frame: Batch, bytes: number, flow: Flow): ReadonlyArray<Action> | Violation {
    // A violation must leave the state as it was, so the ack, which moves the flow, is checked before the messages
    // and applied after.
    if (frame.a !== undefined) {
      const fault = flow.check(frame.a[0], frame.a[1])
      if (fault !== undefined) return fault
    }
    if (this.inbox.unconfirmed > 4 * this.options.window.messages) {
      return new Violation("window", "failures are not confirmed")
    }
    const skip = this.inbox.accept(frame.o, frame.m.length, bytes, this.options.window)
    if (skip instanceof Violation) return skip
    this.ackDue = true
    const actions: Array<Action> = []
    if (frame.a !== undefined) this.applyAck(frame.a, undefined, flow, actions)
    if (skip < frame.m.length) {
      actions.push({
        t: "deliver",
        epoch: this.inbox.epoch ?? "",
        first: frame.o + skip,
        messages: skip === 0 ? frame.m : frame.m.slice(skip),
        meta: frame.x === undefined ? undefined : frame.m.slice(skip).map((_, i) => frame.x?.[String(i + skip)])
      })
    }
    return actions
  }

  private receiveAck(
    ack: readonly [received: number, handled: number],
    failed: ReadonlyArray<Failure> | undefined,
    flow: Flow
  ): ReadonlyArray<Action> | Violation {
    const fault = flow.check(ack[0], ack[1])
    if (fault !== undefined) return fault
    const actions: Array<Action> = []
    this.applyAck(ack, failed, flow, actions)
    return actions
  }

  private applyAck(
    [received, handled]: readonly [received: number, handled: number],
    failed: ReadonlyArray<Failure> | undefined,
    flow: Flow,
    actions: Array<Action>
  ): void {
    const before = flow.handled
    if (!flow.ack(received, handled)) return
    actions.push({ t: "acked", handled, failed: failed === undefined ? [] : newlyFailed(failed, before, handled) })
  }
}

/** The largest frame that a side with this payload limit takes. */
export const maxFrameBytes = (maxPayload: number): number => Math.max(bulkFrameBytes, maxPayload) + envelopeBytes

/** The largest hello or welcome: it comes before the other side's limits are known, so every receiver takes it. */
export const maxHandshakeBytes = maxFrameBytes(0)

/** The failures that an ack from `before` to `handled` can carry: each offset between, once, whatever it lists. */
const newlyFailed = (failed: ReadonlyArray<Failure>, before: number, handled: number): ReadonlyArray<Failure> => {
  const news = new Map<number, Failure>()
  for (const failure of failed) if (failure[0] > before && failure[0] <= handled) news.set(failure[0], failure)
  return [...news.values()]
}

const unexpected = (type: string) => new Violation("unexpected", `a ${type} frame now, or from this side`)

/** Whether our log continues at the peer, and from where; or a violation if the peer's position can't be (§4). */
export const resumeOutbox = (
  out: OutboxPosition,
  peer: InboxPosition
): { readonly continued: boolean; readonly position: InboxPosition } | Violation => {
  const restart: InboxPosition = {
    epoch: out.epoch,
    received: out.acked,
    handled: out.acked,
    failed: [],
    pending: { messages: 0, bytes: 0 }
  }
  if (peer.epoch !== out.epoch) return { continued: false, position: restart }
  if (peer.received > out.last) return new Violation("future", `a position of ${peer.received}, sent were ${out.last}`)
  // The peer went back to before what it acknowledged, and that is gone here: it has to start afresh.
  if (peer.handled < out.acked) return { continued: false, position: restart }
  // An unsettled failure comes with a later ack.
  const failed = peer.failed.filter(([offset]) => offset <= peer.handled)
  return { continued: true, position: { ...peer, failed } }
}

/** Whether our position in the peer's log still holds; if not, it becomes the start of what the peer has (§4). */
export const resumeInbox = (inbox: Inbox, peer: OutboxPosition): boolean | Violation => {
  if (inbox.epoch === peer.epoch) {
    if (inbox.received > peer.last) {
      return new Violation("future", `the log ends at ${peer.last}, received were ${inbox.received}`)
    }
    if (inbox.handled >= peer.acked) {
      inbox.forgetFailures(peer.acked)
      return true
    }
  }
  inbox.adopt(peer.epoch, peer.acked)
  return false
}
