/**
 * The entry `resilient-websocket/testing`: faults for your tests, and the laws of stores.
 *
 * @since 0.1.0
 */
export * as Faults from "./Faults.ts"
export * as StoreLaws from "./StoreLaws.ts"
