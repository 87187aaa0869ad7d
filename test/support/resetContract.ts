/** What server and clients of the resets say to each other. */
import { Schema } from "effect"
import { Contract } from "../../src/index.ts"

export const Numbers = Contract.make("test/Numbers", { toServer: Schema.Number, toClient: Schema.Number })
