/**
 * The entry `resilient-websocket/postgres`: stores that servers share through PostgreSQL.
 *
 * @since 0.1.0
 */
export { makePostgresDriver, type PostgresDriverOptions } from "./postgresDriver.ts"
export * as PostgresStore from "./PostgresStore.ts"
