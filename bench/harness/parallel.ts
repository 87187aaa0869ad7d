/** Many things of a kind, a few at a time: five thousand dials at once would only time out. */

/** Runs `use` for 0 … `count` − 1; at most `limit` at once. Results are in that order. */
export const inParallel = async <A>(
  count: number,
  use: (index: number) => Promise<A>,
  limit = 64
): Promise<Array<A>> => {
  const results: Array<A> = []
  let next = 0
  const worker = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) results[index] = await use(index)
  }
  await Promise.all(Array.from({ length: Math.min(limit, count) }, worker))
  return results
}
