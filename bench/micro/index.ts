/** All micro-benchmarks, each in a process of its own: what one leaves in the heap and the JIT is not the next one's. */
import * as Child from "../harness/Child.ts"
import type { Side } from "../harness/Side.ts"
import type { Scale } from "../harness/Workload.ts"
import { breaker } from "./breaker.ts"
import { core } from "./core.ts"
import { deduplicator } from "./deduplicator.ts"
import type { Figure, MicroOptions } from "./measure.ts"

const all = { core, deduplicator, breaker }
type Name = keyof typeof all

export const microNames = Object.keys(all) as ReadonlyArray<Name> // the keys are what they are

export interface MicroResult {
  readonly name: Name
  readonly figures: ReadonlyArray<Figure>
  /** Why there are none. */
  readonly error: string | undefined
}

const options: Record<Scale, MicroOptions> = {
  full: { repetitions: 7, size: 1 },
  quick: { repetitions: 3, size: 0.1 }
}

/** In the child. */
export const run = (_side: Side, { name, scale }: { readonly name: Name; readonly scale: Scale }) =>
  all[name](options[scale])

export const measureMicro = async (name: Name, scale: Scale): Promise<MicroResult> => {
  const child = Child.start("ws", "server") // it loads a peer, whichever, and does not use it
  try {
    const { run } = child.calls<typeof import("./index.ts")>(new URL(import.meta.url))
    return { name, figures: await run({ name, scale }), error: undefined }
  } catch (error) {
    return { name, figures: [], error: error instanceof Error ? error.message : String(error) }
  } finally {
    await child.end()
  }
}
