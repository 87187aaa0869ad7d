/**
 * The entry `resilient-websocket/sqlite`: everything that a server keeps, in one file on its disk.
 *
 * @since 0.1.0
 */
export * as SqliteClient from "./SqliteClient.ts"
export * as SqliteStore from "./SqliteStore.ts"
