/** How far a shutdown is: what may still be sent, and whether a failure counts. */
import { Context, type Fiber } from "effect"

/** True in the fibers of handlers, and in those that these start. */
export const AtWork = Context.Reference<boolean>("resilient-websocket/internal/AtWork", { defaultValue: () => false })

export class Closing {
  private phase: "open" | "flushing" | "ending" = "open"
  private readonly isConsuming: () => boolean

  /** `isConsuming`: whether a consumer of a stream has a message that it is not done with. Whose fiber it is can't be known. */
  constructor(isConsuming: () => boolean) {
    this.isConsuming = isConsuming
  }

  /** From the start of a shutdown on. What fails now may do so for its sake: that is no fault of the message. */
  hasBegun(): boolean {
    return this.phase !== "open"
  }

  begin(): void {
    this.phase = "flushing"
  }

  /** Flushing is over, whether or not all could be. */
  flushed(): void {
    this.phase = "ending"
  }

  /** Whether `send` takes a message: while a shutdown flushes only from handlers, so that they can answer. */
  takesMessagesOf(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return this.phase === "open" || (this.phase === "flushing" && (fiber.getRef(AtWork) || this.isConsuming()))
  }
}
