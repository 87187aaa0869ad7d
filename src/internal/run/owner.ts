/** Who made a server, and is ended with it when it gives itself up: the program, by its own fiber. */
import { Cause, Effect, type Fiber } from "effect"
import { Observers } from "../kit/listeners.ts"

export class Owner {
  private readonly maker: Fiber.Fiber<unknown, unknown>
  /** Is told instead, by the face without Effect. */
  private readonly onFailure: Observers["failure"]
  private cause: Cause.Cause<unknown> | undefined

  constructor(maker: Fiber.Fiber<unknown, unknown>) {
    this.maker = maker
    this.onFailure = maker.getRef(Observers).failure
  }

  /**
   * Interrupts the fiber that made the server: it launched the layer, or provided it. A layer that is built beside others
   * is built by a fiber of its own, which is gone by now, and Effect tells nobody which one that was forked by. Then the
   * program is asked to end as a signal would ask it: `runMain` of every platform listens.
   */
  fail(cause: Cause.Cause<unknown>, by: Fiber.Fiber<unknown, unknown>): void {
    if (this.onFailure !== undefined) return this.onFailure(cause)
    this.cause = cause
    if (this.maker.pollUnsafe() === undefined) this.maker.interruptUnsafe(by.id)
    else globalThis.process?.emit("SIGTERM", "SIGTERM")
  }

  /** For the end of the scope: dies of what the server has failed with, so that the program's exit has it. */
  get verdict(): Effect.Effect<void> {
    return Effect.suspend(() => this.cause === undefined ? Effect.void : Effect.die(Cause.squash(this.cause)))
  }
}

export const makeOwner: Effect.Effect<Owner> = Effect.withFiber((maker) => Effect.succeed(new Owner(maker)))
