/** How much each share may have of a room that is too small for all. */

/** The highest level at which the shares, each capped to the level, fit in `room`; Infinity if all fit as they are. */
export const levelOf = (held: Iterable<number>, room: number): number => {
  const rising = [...held].sort((a, b) => a - b)
  let left = room
  for (let i = 0; i < rising.length; i++) {
    const least = rising[i] as number // in bounds
    // All the rest hold at least this much, and there is no room for that.
    if (least * (rising.length - i) > left) return left / (rising.length - i)
    left -= least
  }
  return Infinity
}
