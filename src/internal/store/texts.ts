/**
 * Texts that not every database can hold, from programs that use a store's services. Server and client let none get so
 * far; a program that uses the services directly may. They are refused before a call is made: in a batch they would
 * fail the requests of others too, and what a client sent must not open the store's circuit.
 */
import { Effect } from "effect"
import { isText } from "../../core/Text.ts"
import { StoreError } from "./driver.ts"

const isStorable = (text: string | undefined): boolean => text === undefined || text === "" || isText(text)

/** The error for a text that can't be stored; undefined when all can. */
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
