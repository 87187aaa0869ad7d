/**
 * The frames of the protocol as types, in the shape they have on the wire (PROTOCOL.md §5). The decoder checks a parsed
 * JSON value against these types and copies nothing.
 */
import type { FailureReason, FreshReason, GapReason, RejectCode, Window } from "./Protocol.ts"

/** An offset that the receiver could not handle, and why. It travels with acks. */
export type Failure = readonly [offset: number, reason: FailureReason]

/** Where a receiver is: `handled <= received`. `epoch: null` means it has no position. */
export interface InboxPosition {
  readonly epoch: string | null
  readonly received: number
  readonly handled: number
  /** Failed offsets that the sender may not know of yet. Those above `handled` mean nothing yet. */
  readonly failed: ReadonlyArray<Failure>
  /** What was received and not handled: it fills the window even on the next connection. */
  readonly pending: { readonly messages: number; readonly bytes: number }
}

/** What a sender has: everything in `acked + 1 .. last` is still available. */
export interface OutboxPosition {
  readonly epoch: string
  readonly acked: number
  readonly last: number
}

/** Optional facts of one message of a batch. */
export interface MessageMeta {
  /** The publisher's message id; without one the id is `<epoch>-<offset>`. */
  readonly id?: string
  /** W3C `traceparent` of the span that sent the message. */
  readonly trace?: string
}

export interface Hello {
  readonly t: "hello"
  readonly version: number
  readonly session?: string
  readonly token?: string
  readonly instance: string
  /** The number of this dial of the instance, so that a hello that was overtaken is not taken for the newest. */
  readonly attempt?: number
  readonly auth?: string
  /** What the two programs have agreed to say. */
  readonly contract?: { readonly id: string; readonly version?: string | undefined }
  readonly out: OutboxPosition
  readonly in: InboxPosition
  readonly window: Window
  /** The largest payload the client takes, in bytes. */
  readonly maxPayload: number
}

export interface Welcome {
  readonly t: "welcome"
  readonly result: "resumed" | "fresh"
  readonly reason?: FreshReason
  readonly session: string
  readonly token: string
  readonly generation: number
  readonly out: OutboxPosition
  readonly in: InboxPosition
  /** Whether each direction, seen from the server, continues where it was. */
  readonly continued: { readonly in: boolean; readonly out: boolean }
  readonly window: Window
  /** Largest payload the server takes, in bytes. */
  readonly maxPayload: number
  /** The server's heartbeat interval, session retention and reconnect jitter, in milliseconds. */
  readonly heartbeat: number
  readonly retention: number
  readonly jitter: number
}

/** Messages with consecutive offsets `o, o + 1, …`, perhaps with an ack `a: [received, handled]`. */
export interface Batch {
  readonly t: "batch"
  readonly o: number
  readonly m: ReadonlyArray<unknown>
  /** Meta by index in `m`, for those messages that have any. */
  readonly x?: Readonly<Record<string, MessageMeta>>
  readonly a?: readonly [received: number, handled: number]
}

interface Ack {
  readonly t: "ack"
  readonly a: readonly [received: number, handled: number]
  readonly f?: ReadonlyArray<Failure>
}

/** The sender has taken note of the failures up to offset `o`: the receiver may forget them. */
interface Seen {
  readonly t: "seen"
  readonly o: number
}

/** Offsets `o..e` will never come. */
interface Gap {
  readonly t: "gap"
  readonly o: number
  readonly e: number
  readonly reason: GapReason
}

interface Volatile {
  readonly t: "volatile"
  readonly m: ReadonlyArray<unknown>
  /** As in a batch. */
  readonly x?: Readonly<Record<string, MessageMeta>>
}

interface Ping {
  readonly t: "ping"
}

/** Carries the position, so that an idle connection keeps the sender's outbox trimmed. */
interface Pong {
  readonly t: "pong"
  readonly a: readonly [received: number, handled: number]
}

/** The server is leaving: it closes by `deadline` ms; come back spread over `window` ms, to `endpoint` if given. */
export interface Drain {
  readonly t: "drain"
  readonly deadline: number
  readonly window: number
  readonly endpoint?: string
}

export interface Reject {
  readonly t: "reject"
  readonly code: RejectCode
  /** Which breach of the protocol it was, if any; see `ViolationCode`. A later version may have others. */
  readonly violation?: string
  readonly detail: string
}

/** A renewed token for the authentication hook, sent in band. */
export interface Auth {
  readonly t: "auth"
  readonly auth: string
}

/** The session is over for good: both sides forget it. */
export interface End {
  readonly t: "end"
}

export type Frame =
  | Hello
  | Welcome
  | Batch
  | Ack
  | Seen
  | Gap
  | Volatile
  | Ping
  | Pong
  | Drain
  | Reject
  | Auth
  | End
