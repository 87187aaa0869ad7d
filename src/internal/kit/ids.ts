/** Ids that are unique, not secret: epochs, instances, session ids of peers that bring none. */
import type { Random } from "effect"

export type Ids = (typeof Random.Random)["Service"]

/** 100 random bits in base 36. From Effect's Random, so that a seeded test gets the same ids again. */
export const makeId = (random: Ids): string => {
  let id = ""
  for (let i = 0; i < 4; i++) {
    id += Math.floor(random.nextDoubleUnsafe() * 2 ** 25).toString(36).padStart(5, "0")
  }
  return id
}
