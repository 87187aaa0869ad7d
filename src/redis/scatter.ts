/** Sends one batch to the partitions that its requests are for, in one call each, at the same time. */
import { Effect } from "effect"
import type { StoreError } from "../internal/store/driver.ts"
import type { Partition } from "./partitions.ts"

/** Runs `call` for each partition that has requests. Results come in the order of the requests. */
export const scatter = <A, B>(
  requests: ReadonlyArray<A>,
  partitionOf: (request: A) => Partition,
  call: (partition: Partition, requests: ReadonlyArray<A>) => Effect.Effect<ReadonlyArray<B>, StoreError>
): Effect.Effect<ReadonlyArray<B>, StoreError> => {
  const [only] = requests
  if (only === undefined) return Effect.succeed([])
  if (requests.length === 1) return call(partitionOf(only), requests)

  const groups = new Map<Partition, { readonly requests: Array<A>; readonly places: Array<number> }>()
  for (const [place, request] of requests.entries()) {
    const partition = partitionOf(request)
    const group = groups.get(partition)
    if (group === undefined) {
      groups.set(partition, { requests: [request], places: [place] })
    } else {
      group.requests.push(request)
      group.places.push(place)
    }
  }
  const gather = (parts: ReadonlyArray<ReadonlyArray<readonly [number, B]>>): ReadonlyArray<B> =>
    parts.flat().sort(([a], [b]) => a - b).map(([, result]) => result)
  return Effect.forEach(
    groups,
    ([partition, group]) =>
      Effect.map(
        call(partition, group.requests),
        (results) => results.map((result, i) => [group.places[i] ?? 0, result] as const)
      ),
    { concurrency: "unbounded" }
  ).pipe(
    Effect.map(gather)
  )
}
