/**
 * Values to and from PostgreSQL, checked. Numbers travel as `double precision`, which has every integer of 53 bits and
 * the infinities; `bigint` would arrive as JavaScript's. An answer of another shape throws {@link Nonsense}, and so
 * does a text that the database can't hold, before it is sent. connection.ts catches both.
 */
import { PgTypes } from "@effect/sql-pg"

/** A value that is not what it must be. */
export class Nonsense extends Error {
  override readonly name = "Nonsense"
}

export type Row = ReadonlyArray<unknown>

// --- parameters

const parameter = (oid: number, value: unknown): PgTypes.Parameter => ({
  [PgTypes.ParameterTypeId]: PgTypes.ParameterTypeId,
  oid,
  value
})

export const number = (value: number | undefined): PgTypes.Parameter => parameter(PgTypes.OID.float8, value ?? null)

export const boolean = (value: boolean): PgTypes.Parameter => parameter(PgTypes.OID.bool, value)

export const text = (value: string | undefined): PgTypes.Parameter => parameter(PgTypes.OID.text, sendable(value))

export const numbers = (values: ReadonlyArray<number>): PgTypes.Parameter => parameter(PgTypes.OID.float8Array, values)

export const integers = (values: ReadonlyArray<number>): PgTypes.Parameter => parameter(PgTypes.OID.int4Array, values)

export const booleans = (values: ReadonlyArray<boolean>): PgTypes.Parameter => parameter(PgTypes.OID.boolArray, values)

export const texts = (values: ReadonlyArray<string | undefined>): PgTypes.Parameter =>
  parameter(PgTypes.OID.textArray, values.map(sendable))

/** Half a surrogate pair would become another character on the way, and two different texts could become equal. */
const sendable = (value: string | undefined): string | null => {
  if (value === undefined) return null
  if (!value.isWellFormed()) throw new Nonsense("a text with half a surrogate pair can't be stored in PostgreSQL")
  return value
}

/** `$1, $2, …`, for this many parameters. */
export const places = (count: number): string => Array.from({ length: count }, (_, at) => `$${at + 1}`).join(", ")

// --- answers

const expected = (what: string, value: unknown): never => {
  throw new Nonsense(`PostgreSQL answered ${value === null ? "null" : typeof value} for ${what}`)
}

export const toNumber = (value: unknown): number => typeof value === "number" ? value : expected("a number", value)

export const toBoolean = (value: unknown): boolean => typeof value === "boolean" ? value : expected("a boolean", value)

export const toText = (value: unknown): string => typeof value === "string" ? value : expected("a text", value)

export const toOptionalNumber = (value: unknown): number | undefined => value === null ? undefined : toNumber(value)

export const toOptionalText = (value: unknown): string | undefined => value === null ? undefined : toText(value)

export const toArray = (value: unknown): ReadonlyArray<unknown> =>
  Array.isArray(value) ? value : expected("an array", value)

/** The only row of an answer. */
export const onlyRow = (rows: ReadonlyArray<Row>): Row => rows[0] ?? expected("a row", undefined)
