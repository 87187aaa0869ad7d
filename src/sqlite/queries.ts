/** Prepared statements of the driver, with the types of their rows. */
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite"

/**
 * A statement. It refuses text that is not well-formed UTF-16: SQLite keeps UTF-8, where all lone surrogates become the
 * same, so that different sessions would become one.
 */
export class Query<Row extends object> {
  private readonly statement: StatementSync

  constructor(statement: StatementSync) {
    this.statement = statement
  }

  /** The first row. Runs the statement no further; one that writes has written everything by then. */
  get(...values: ReadonlyArray<SQLInputValue>): Row | undefined {
    return this.statement.get(...wellFormed(values)) as Row | undefined
  }

  all(...values: ReadonlyArray<SQLInputValue>): ReadonlyArray<Row> {
    return this.statement.all(...wellFormed(values)) as unknown as ReadonlyArray<Row>
  }

  /** Rows one by one, as long as they are wanted. */
  iterate(...values: ReadonlyArray<SQLInputValue>): Iterable<Row> {
    return this.statement.iterate(...wellFormed(values)) as unknown as Iterable<Row>
  }

  /** Runs the statement; gives how many rows it changed. */
  run(...values: ReadonlyArray<SQLInputValue>): number {
    return Number(this.statement.run(...wellFormed(values)).changes)
  }
}

const wellFormed = (values: ReadonlyArray<SQLInputValue>): ReadonlyArray<SQLInputValue> => {
  for (const value of values) {
    if (typeof value === "string" && !value.isWellFormed()) {
      throw new Error("the text has a lone surrogate, which SQLite can't store")
    }
  }
  return values
}

/** Prepares a statement whose rows are `Row`: the only place where the SQL's columns get their types. */
export const preparing = (database: DatabaseSync) => <Row extends object = never>(sql: string): Query<Row> =>
  new Query<Row>(database.prepare(sql))

export type Prepare = ReturnType<typeof preparing>
