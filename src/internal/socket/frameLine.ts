/**
 * One conversation as its reader sees it: one frame at a time, each held until the reader is done with it. Knows
 * neither sessions nor Effect's Socket.
 */
import { Effect } from "effect"

export type Data = string | Uint8Array

/** Why a conversation is over: it was closed with a code, or it failed. */
export type Ending = { readonly code: number; readonly reason: string } | { readonly cause: unknown }

/** One end of a conversation. */
export interface End {
  /** Makes sure that there is a conversation. Fails if there can't be one. */
  readonly open: Effect.Effect<void, unknown>
  readonly line: Line
  readonly write: (data: Data) => Effect.Effect<void, unknown>
  /** Ends the conversation after everything that was written before. */
  readonly close: (code: number, reason: string) => Effect.Effect<void, unknown>
}

type Pulled = Effect.Effect<readonly [Data], Ending>

export class Line {
  /** Why the conversation is over; undefined while it is not. */
  ending: Ending | undefined
  private last: string | undefined
  private held: { readonly data: Data; readonly release: () => void } | undefined
  private isTaken = false
  private waiter: ((effect: Pulled) => void) | undefined

  /** Begins a conversation; `first` is the id of the message that opened it. */
  begin(first: string | undefined): void {
    this.ending = undefined
    this.last = first
  }

  end(ending: Ending): void {
    if (this.ending !== undefined) return
    this.ending = ending
    this.release()
    this.resume(Effect.fail(ending))
  }

  /** Whether the message came right after the last one. Default ids are `<epoch>-<offset>`, with offsets in a row. */
  follows(messageId: string | undefined): boolean {
    const before = this.last
    this.last = messageId
    if (before === undefined || messageId === undefined) return true
    const dash = before.lastIndexOf("-") + 1
    return messageId === `${before.slice(0, dash)}${Number(before.slice(dash)) + 1}`
  }

  /** Gives a frame to the reader. Succeeds when the reader is done with it, or the conversation is over. */
  offer(data: Data): Effect.Effect<void> {
    return Effect.callback((resume) => {
      if (this.ending !== undefined) return resume(Effect.void)
      const held = { data, release: () => resume(Effect.void) }
      this.held = held
      this.deliver()
      return Effect.sync(() => {
        if (this.held === held) this.held = undefined
      })
    })
  }

  /** The next frame. Asking for it means that the reader is done with the one before. */
  readonly pull: Pulled = Effect.callback((resume) => {
    if (this.isTaken) this.release()
    this.waiter = resume
    this.deliver()
    if (this.ending !== undefined) this.resume(Effect.fail(this.ending))
    return Effect.sync(() => {
      if (this.waiter === resume) this.waiter = undefined
    })
  })

  /** Called when the reader is gone. A frame that it was not done with goes to the next reader. */
  leave(wasDone: boolean, ending: Ending): void {
    if (this.isTaken && wasDone) this.release()
    this.isTaken = false
    this.resume(Effect.fail(ending))
  }

  private deliver(): void {
    if (this.held === undefined || this.isTaken || this.waiter === undefined) return
    this.isTaken = true
    this.resume(Effect.succeed([this.held.data]))
  }

  private release(): void {
    const { held } = this
    this.held = undefined
    this.isTaken = false
    held?.release()
  }

  private resume(effect: Pulled): void {
    const { waiter } = this
    this.waiter = undefined
    waiter?.(effect)
  }
}
