/**
 * Texts that not every database can hold, from programs that use a store's services. Server and client let none get so
 * far; a program that uses a store's services by itself may. They are refused before a call is made: in a batch they
 * would take the requests of others with them, and the store's circuit is not to open for what a client sent.
 */
import { Effect } from "effect"
import { isText } from "../../core/Text.ts"
import { StoreError } from "./driver.ts"

const isStorable = (text: string | undefined): boolean => text === undefined || text === "" || isText(text)

/** What a text that can't be stored fails with; undefined when all can. */
export const unstorable = (operation: string, ...texts: ReadonlyArray<string | undefined>): StoreError | undefined =>
  texts.every(isStorable)
    ? undefined
    : new StoreError(operation, new TypeError("a text with U+0000 or half a surrogate pair can't be stored"))

/** Runs `effect` if these texts can be stored. */
export const ifStorable = <A, E>(
  operation: string,
  texts: ReadonlyArray<string | undefined>,
  effect: Effect.Effect<A, E>
): Effect.Effect<A, E | StoreError> =>
  Effect.suspend((): Effect.Effect<A, E | StoreError> => {
    const error = unstorable(operation, ...texts)
    return error === undefined ? effect : Effect.fail(error)
  })
