/** What the demo and its server processes say to each other: JSON, over the channel that Node makes for a child. */

/** Stores that survive a killed server. */
export type DurableKind = "sqlite" | "postgres" | "redis"

/** Where a store is. */
export interface Place {
  readonly kind: DurableKind
  /** Path of the file, or URL. */
  readonly location: string
  /** What everything of this run is kept under: a schema, or the beginning of keys. */
  readonly namespace: string
}

/** Lines of one session, in order, from number `first` on; message i has the publish key `i`. */
export interface SendRequest {
  readonly session: string
  readonly first: number
  readonly texts: ReadonlyArray<string>
}

export type ToServer =
  /** To load its code, and wait: the first thing that it is told. */
  | { readonly t: "load"; readonly kind: DurableKind }
  | {
    readonly t: "start"
    readonly place: Place
    /** Whether to keep the compiled code, with which later servers start in half the time, before it listens. */
    readonly keepsCode: boolean
  }
  | ({ readonly t: "send"; readonly id: number } & SendRequest)
  /** To end in an orderly way. */
  | { readonly t: "stop" }

/** Figures of one server since it started. */
export interface Figures {
  /** Messages put on the wire again after a reconnect. */
  readonly redelivered: number
  /** Messages that its handler was given though they had been handled, and that it recognized. */
  readonly handedAgain: number
}

export type FromServer =
  | { readonly t: "listening"; readonly host: string; readonly port: number }
  /** A client has connected to this server. */
  | { readonly t: "connected"; readonly session: string }
  /** How many of the lines, from the first one on, are in the session's outbox; and why not the next one. */
  | { readonly t: "sent"; readonly id: number; readonly accepted: number; readonly error?: string }
  | { readonly t: "figures"; readonly figures: Figures }
