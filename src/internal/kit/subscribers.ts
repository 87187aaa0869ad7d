/** Listeners that are told of something until their scope closes. */
import { Effect, type Scope } from "effect"

type Listener<A, B> = (first: A, second: B) => void

/** The list is replaced and never changed: those who come or go while others are told of something don't matter to that. */
export class Subscribers<A, B = void> {
  private list: ReadonlyArray<Listener<A, B>> = []

  /** In the order in which they came. They must return at once and not throw. */
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
