/** How far a shutdown is, for those who have to know: what may still be sent, and whether a failure counts. */

export class Closing {
  private phase: "open" | "flushing" | "ending" = "open"

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

  /**
   * Whether `send` takes a message. While a shutdown flushes it does only as long as a handler is at work: a message is
   * handled with what its handler answers or not at all, and there are fewer handlers all the time.
   */
  takesMessages(isHandling: () => boolean): boolean {
    return this.phase === "open" || (this.phase === "flushing" && isHandling())
  }
}
