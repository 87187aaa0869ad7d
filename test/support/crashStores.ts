/** Where the servers of a crash test keep what they store, and how patient they are. */
import type { StoreOptions } from "../../src/internal/store/layer.ts"

export type Place =
  & { readonly table: string }
  & (
    | { readonly kind: "sqlite"; readonly filename: string }
    | {
      readonly kind: "postgres"
      readonly host: string
      readonly port: number
      readonly username: string
      readonly database: string
      readonly schema: string
    }
  )

/** A server that was killed is not waited for. */
export const storeOptions: StoreOptions = { handoffTimeout: "10 millis", pollInterval: "200 millis" }
