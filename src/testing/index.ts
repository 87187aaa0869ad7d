/**
 * The entry `resilient-websocket/testing`: the laws of stores.
 *
 * @since 0.1.0
 */
export * as StoreLaws from "./StoreLaws.ts"
