/** How much each share may have of a room that is too small for all. */

/** The highest level such that what the shares hold up to it comes to `room` at most; Infinity where all fit. */
export const levelOf = (held: Iterable<number>, room: number): number => {
  const rising = [...held].sort((a, b) => a - b)
  let left = room
  for (let i = 0; i < rising.length; i++) {
    const least = rising[i] as number // in bounds
    // None of the rest holds less, and there is not this much for each.
    if (least * (rising.length - i) > left) return left / (rising.length - i)
    left -= least
  }
  return Infinity
}
