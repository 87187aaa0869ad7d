/** Replies of scripts, checked: texts and arrays of texts. These throw on anything else; see `Call.decode`. */

export const text = (reply: unknown): string => {
  if (typeof reply === "string") return reply
  throw new TypeError(`Redis answered ${typeof reply} instead of a text`)
}

export const list = (reply: unknown): ReadonlyArray<unknown> => {
  if (Array.isArray(reply)) return reply
  throw new TypeError(`Redis answered ${typeof reply} instead of an array`)
}

/** A number as `number` below writes it. */
export const count = (reply: unknown): number => {
  const written = text(reply)
  if (written === "inf") return Infinity
  const value = Number(written)
  if (written !== "" && !Number.isNaN(value)) return value
  throw new TypeError(`Redis answered ${JSON.stringify(written)} instead of a number`)
}

/** A text that `optional` below wrote; undefined when missing. */
export const maybe = (reply: unknown): string | undefined => {
  const written = text(reply)
  return written === "" ? undefined : written.slice(1)
}

export const maybeCount = (reply: unknown): number | undefined => {
  const written = maybe(reply)
  return written === undefined ? undefined : count(written)
}

/** Rows of `width` items each, from one flat array. */
export const rowsOf = (reply: unknown, width: number): ReadonlyArray<ReadonlyArray<unknown>> => {
  const flat = list(reply)
  const rows: Array<ReadonlyArray<unknown>> = []
  for (let i = 0; i < flat.length; i += width) rows.push(flat.slice(i, i + width))
  return rows
}

// --- the reverse, for arguments

/** Safe integers and `Infinity`, in the form that Redis reads as a score and Lua's `num` as a number. */
export const number = (value: number): string =>
  value === Infinity ? "inf" : value === -Infinity ? "-inf" : String(value)

/** Tells a missing text from an empty one. */
export const optional = (value: string | undefined): string => value === undefined ? "" : `=${value}`

export const optionalNumber = (value: number | undefined): string => value === undefined ? "" : optional(number(value))
