import { assert, describe, it } from "@effect/vitest"
import { DatabaseSync } from "node:sqlite"
import { Keys } from "../../src/sqlite/keys.ts"
import { Nodes } from "../../src/sqlite/nodes.ts"
import { Outboxes } from "../../src/sqlite/outboxes.ts"
import { type Prepare, preparing } from "../../src/sqlite/queries.ts"
import { migrate, namesOf } from "../../src/sqlite/schema.ts"
import { Sessions } from "../../src/sqlite/sessions.ts"
import { Totals } from "../../src/sqlite/totals.ts"

/** What each statement of the driver does, in SQLite's words. */
const plans = (): ReadonlyArray<{ readonly sql: string; readonly plan: string }> => {
  const database = new DatabaseSync(":memory:")
  migrate(database, "rws_")
  const texts: Array<string> = []
  const prepare: Prepare = (sql) => {
    texts.push(sql)
    return preparing(database)(sql)
  }
  const names = namesOf("rws_")
  const totals = new Totals(prepare, names)
  const keys = new Keys(prepare, names, totals)
  const nodes = new Nodes(prepare, names)
  const prepared = [new Outboxes(prepare, names, { keys, nodes, totals }), new Sessions(prepare, names)]
  assert.strictEqual(prepared.length, 2)
  const found = texts.map((sql) => ({
    sql,
    plan: database.prepare(`EXPLAIN QUERY PLAN ${sql}`).all().map((row) => String(row["detail"])).join("; ")
  }))
  database.close()
  return found
}

describe("the statements on SQLite", () => {
  it("look rows up by an index, whatever else is in the tables", () => {
    const scans = plans().filter(({ plan }) => /\bSCAN (?!CONSTANT|\(subquery)/.test(plan)).map(({ plan }) => plan)
    assert.deepStrictEqual(scans, [
      // One row, and a row a server.
      "SCAN rws_store",
      "SCAN rws_store",
      "SCAN rws_node",
      "SCAN rws_session USING COVERING INDEX sqlite_autoindex_rws_session_1"
    ])
  })

  it("sort nothing", () => {
    assert.deepStrictEqual(plans().filter(({ plan }) => plan.includes("TEMP B-TREE")), [])
  })
})
