/** How far a shutdown has come: what may still be sent, and whether a failure counts. */
import { Context, type Fiber } from "effect"

/** True in the fibers of handlers, and in those that these start. */
export const AtWork = Context.Reference<boolean>("resilient-websocket/internal/AtWork", { defaultValue: () => false })

export class Closing {
  private phase: "open" | "flushing" | "ending" = "open"
  private readonly isConsuming: () => boolean

  /** `isConsuming`: whether a stream's consumer is still at work on a message; its fiber can't be known. */
  constructor(isConsuming: () => boolean) {
    this.isConsuming = isConsuming
  }

  /** True from the start of a shutdown: it may cause failures that are not the message's fault. */
  hasBegun(): boolean {
    return this.phase !== "open"
  }

  begin(): void {
    this.phase = "flushing"
  }

  /** Flushing is over, whether or not everything was flushed. */
  flushed(): void {
    this.phase = "ending"
  }

  /**
   * Whether `send` takes a message. While a shutdown flushes: only from handlers, so that they can answer, or from any
   * fiber while a stream's consumer is at work.
   */
  takesMessagesOf(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return this.phase === "open" || (this.phase === "flushing" && (fiber.getRef(AtWork) || this.isConsuming()))
  }
}
