/** What the two sides may say to each other, shared by both. */
import { Schema } from "effect"
import { Contract } from "../src/index.ts"

const Order = Schema.Struct({ number: Schema.Int, item: Schema.String })
const Confirmed = Schema.Struct({ number: Schema.Int })

export const Shop = Contract.make("example/Shop", { toServer: Order, toClient: Confirmed })
