/**
 * The entry `resilient-websocket/postgres`: stores that servers share through PostgreSQL.
 *
 * @since 0.1.0
 */
export * as PostgresStore from "./PostgresStore.ts"
