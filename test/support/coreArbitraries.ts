/** Small generators that the property tests of the core share. */
import { Schema } from "effect"

/** Integers in `minimum..maximum`. */
export const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

/** A command of a stateful property: a tag and its parameters. */
export const command = <const Tag extends string, const Fields extends Schema.Struct.Fields>(
  tag: Tag,
  fields: Fields
) => Schema.Struct({ t: Schema.Literal(tag), ...fields })

/** Whether a property is checked: at a seed that never changes, so that a failure today is a failure tomorrow. */
export const fixed = (runs: number, size = 40) => ({
  arbitrary: { runs, size, seed: "resilient.v1", maxShrinks: 2000 }
})
