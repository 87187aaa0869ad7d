/** What parsed JSON takes in memory: up to thirty times its text, if it consists of many small values. */

const stringBytes = 24
const containerBytes = 64
const elementBytes = 16
/** Includes the property's name, which no other object may share. */
const propertyBytes = 64

/** What a waiting message takes besides its value, in bytes. */
export const messageBytes = 128

/** An upper estimate for one value in V8, in bytes. Recursion is safe, since the depth of parsed JSON is bounded. */
export const memoryOf = (value: unknown): number => {
  if (typeof value === "string") return stringBytes + 2 * value.length
  if (typeof value !== "object" || value === null) return 0
  if (Array.isArray(value)) {
    let size = containerBytes + elementBytes * value.length
    for (let i = 0; i < value.length; i++) size += memoryOf(value[i])
    return size
  }
  let size = containerBytes
  for (const key in value) size += propertyBytes + memoryOf((value as { readonly [key: string]: unknown })[key])
  return size
}
