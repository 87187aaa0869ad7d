/** Who has taken so much of a room that it is nearly full: shares above the level at which all would fit. */

/** Names of the shares that hold more than the highest `level` at which what they hold up to it comes to `room` at most. */
export const sharesOver = (heldByShare: ReadonlyMap<string, number>, room: number): Set<string> => {
  const rising = [...heldByShare].sort(([, a], [, b]) => a - b)
  let left = room
  const below = rising.findIndex(([, held], i) => {
    // The rest, of which none holds less, can't have so much each.
    if (held * (rising.length - i) > left) return true
    left -= held
    return false
  })
  return new Set(below === -1 ? [] : rising.slice(below).map(([share]) => share))
}
