/** What the demo's servers and clients say to each other, and how patient they are. */
import { Schema } from "effect"
import { Contract } from "../../src/index.ts"

export const Line = Schema.Struct({ i: Schema.Int, text: Schema.String })
export type Line = typeof Line.Type

export const Lines = Contract.make("resilient-websocket/demo/Lines", { toServer: Line, toClient: Line })

/** Impatient, so that half-open connections are noticed within a short run. The defaults are ten times slower. */
export const times = {
  heartbeat: "1 second",
  heartbeatTimeout: "800 millis",
  ackTimeout: "3 seconds",
  handshakeTimeout: "2 seconds"
} as const

export const reconnect = { base: "50 millis", cap: "1 second" } as const

/** Of all stores, the clients' too. */
export const store = {
  queue: { overflow: "suspend" },
  breaker: { endpoint: { openBase: "100 millis", openCap: "1 second" } }
} as const

/** Of stores that servers share: a killed server is found dead, and a silent one passed over, within a short run. */
export const sharing = { handoffTimeout: "500 millis", nodeTimeout: "2 seconds" } as const

/** The client's name is its session too. */
export const nameOf = (client: number): string => `client-${client + 1}`
