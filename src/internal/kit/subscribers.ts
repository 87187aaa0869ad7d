/** Listeners that are called until their scope closes. */
import { Effect, type Scope } from "effect"

type Listener<A, B> = (first: A, second: B) => void

/** A change makes a new list, so listeners that come or go during a call of `tell` don't affect it. */
export class Subscribers<A, B = void> {
  private list: ReadonlyArray<Listener<A, B>> = []

  /** Calls the listeners in the order in which they came. They must return at once and not throw. */
  tell(first: A, second: B): void {
    for (const listener of this.list) listener(first, second)
  }

  add(listener: Listener<A, B>): Effect.Effect<void, never, Scope.Scope> {
    return Effect.acquireRelease(
      Effect.sync(() => {
        this.list = [...this.list, listener]
      }),
      () =>
        Effect.sync(() => {
          this.list = this.list.filter((other) => other !== listener)
        })
    )
  }
}
