/** What was given up for an operation that then failed, so that nobody was told: the next sweep reports it. */
import type { OutboxMessage } from "../../core/Outbox.ts"
import type { Expired } from "../../MessageQueue.ts"
import type { GivenUp } from "./givingUp.ts"

export class Untold {
  private list: Array<Expired> = []

  /** Dropped to make room. */
  dropped(session: string, epoch: string, messages: ReadonlyArray<OutboxMessage>): void {
    this.list.push({ session, epoch, reason: "overflow", messages })
  }

  givenUp(session: string, epoch: string, given: ReadonlyArray<GivenUp>): void {
    for (const one of given) this.list.push(expiredOf(session, epoch, one))
  }

  take(): Array<Expired> {
    const taken = this.list
    this.list = []
    return taken
  }
}

export const expiredOf = (session: string, epoch: string, { message, reason }: GivenUp): Expired => ({
  session,
  epoch,
  reason: reason === "overflow" ? "overflow" : "expired",
  messages: [message]
})
