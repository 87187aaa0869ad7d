/** The fault proxy for tests without Effect. */
import { Effect, Exit, Scope } from "effect"
import { FaultProxy } from "resilient-websocket/testing/node"

export interface CuttableProxy {
  readonly port: number
  /** Ends all connections, and takes no new ones until `mend`. */
  readonly cut: () => Promise<void>
  readonly mend: () => Promise<void>
  /** Waits until somebody has tried in vain. */
  readonly refuses: () => Promise<unknown>
}

/** It is gone when `atEnd` says so. */
export const makeCuttableProxy = async (
  target: number,
  atEnd: (close: () => Promise<void>) => void
): Promise<CuttableProxy> => {
  const scope = await Effect.runPromise(Scope.make())
  atEnd(() => Effect.runPromise(Scope.close(scope, Exit.void)))
  const proxy = await Effect.runPromise(
    FaultProxy.make({ target: { host: "127.0.0.1", port: target } }).pipe(Scope.provide(scope))
  )
  return {
    port: proxy.port,
    cut: () => Effect.runPromise(Effect.andThen(proxy.refuse, proxy.cut)),
    mend: () => Effect.runPromise(proxy.heal),
    refuses: () => Effect.runPromise(proxy.awaitCounts(({ refusedDials }) => refusedDials > 0))
  }
}
