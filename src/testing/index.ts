/**
 * For tests of stores.
 *
 * @since 0.2.0
 */
export * as StoreLaws from "./StoreLaws.ts"
