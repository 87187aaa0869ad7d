/** The mixes of faults that the simulation is run with. */
import type { Scenario } from "./simulation.ts"
import { noFaults } from "./simulationNetwork.ts"
import { reliable } from "./simulationStores.ts"

/** Nothing goes wrong but latency. */
const calm: Scenario = {
  name: "calm",
  network: noFaults,
  outageMillis: 0,
  stores: reliable,
  clientStores: reliable,
  servers: 1,
  database: false,
  crash: "none",
  deploys: false,
  losses: false,
  forgets: false,
  pauses: false,
  takeover: false,
  shape: (rng) => ({
    latency: rng.pick([[0, 0], [1, 40], [10, 300]]),
    bytesPerMilli: rng.pick([1_000, 100_000]),
    kernelBytes: rng.pick([500, 64_000, 1_000_000]),
    readMillis: 0
  }),
  queue: () => ({}),
  windowMessages: (rng) => rng.pick([1, 4, 1_024]),
  payloadBytes: (rng) => rng.int(0, 20),
  handlers: { fail: 0, poison: 0, slowMillis: 50, answers: 0 },
  messages: 30,
  faultMillis: 5_000
}

/** Connections break and hang, dials fail. */
const cuts: Scenario = {
  ...calm,
  name: "cuts",
  network: { cut: 0.02, halfOpen: 0.4, stall: 0.01, refuse: 0.2, hang: 0.1 },
  outageMillis: 3_000,
  handlers: { fail: 0.05, poison: 0.02, slowMillis: 400, answers: 0 },
  faultMillis: 12_000
}

/** Large messages, small buffers, readers that take their time. */
const backpressure: Scenario = {
  ...cuts,
  name: "backpressure",
  network: { ...cuts.network, cut: 0.005, stall: 0.02 },
  shape: (rng) => ({
    latency: [1, 40],
    bytesPerMilli: rng.pick([50, 1_000]),
    kernelBytes: rng.pick([1_000, 64_000]),
    readMillis: rng.pick([0.5, 2])
  }),
  payloadBytes: (rng) => rng.pick([100, 10_000, 90_000]),
  messages: 20
}

/** Small queues and short lives: messages are refused, dropped and expire. */
const overflow: Scenario = {
  ...cuts,
  name: "overflow",
  queue: (rng) => ({
    maxMessages: rng.pick([3, 10]),
    maxBytes: rng.pick([400, 100_000]),
    overflow: rng.pick(["reject", "dropOldest", "dropNewest", "suspend"]),
    ttl: rng.pick(["1 second", "3 seconds", "1 minute"])
  }),
  messages: 40
}

/** The server process is killed; its stores are not. */
const crashes: Scenario = { ...cuts, name: "crashes", crash: "storesKept" }

/** The server process is killed and what it kept in memory is gone. */
const amnesia: Scenario = { ...cuts, name: "amnesia", crash: "storesLost" }

/** Two client instances take one session from each other. */
const takeover: Scenario = { ...cuts, name: "takeover", takeover: true }

/** Stores are slow, and fail before or after they did what they were asked. */
const stores: Scenario = {
  ...cuts,
  name: "stores",
  stores: { before: 0.03, after: 0.03, slow: 0.1, slowMillis: 300 },
  clientStores: { before: 0.02, after: 0.02, slow: 0.05, slowMillis: 300 }
}

/** Processes stand still, for longer than their peers wait. */
const pauses: Scenario = { ...cuts, name: "pauses", pauses: true }

/** Two servers on the same stores; clients go to either. */
const twoServers: Scenario = { ...cuts, name: "twoServers", servers: 2, pauses: true }

/** The same, and none stands still: nothing is handled twice. */
const living: Scenario = { ...twoServers, name: "living", pauses: false }

/** Everything at once. */
const hostile: Scenario = {
  ...stores,
  name: "hostile",
  crash: "storesKept",
  pauses: true,
  queue: overflow.queue,
  faultMillis: 15_000
}

/** A server on a database: killed, and its successor finds everything. */
const databaseCrashes: Scenario = { ...crashes, name: "databaseCrashes", database: true }

/** The database is slow, and fails before or after it did what it was asked. */
const databaseFaults: Scenario = { ...stores, name: "databaseFaults", database: true, crash: "storesKept" }

/** A server on a database is shut down in an orderly way, again and again, while handlers answer what they are given. */
const databaseDeploys: Scenario = {
  ...cuts,
  name: "databaseDeploys",
  database: true,
  deploys: true,
  // Slow ones, so that there is always something to hand over.
  handlers: { fail: 0.05, poison: 0.02, slowMillis: 400, answers: 0.6 }
}

/** A replica that lacks the newest moments takes the database over, again and again, while clients are connected. */
const databaseLosses: Scenario = { ...cuts, name: "databaseLosses", database: true, losses: true, messages: 60 }

/** The same with two servers: messages come from the one that does not have the session, and sessions move. */
const databaseFailover: Scenario = { ...databaseLosses, name: "databaseFailover", servers: 2 }

/** The database is emptied, or loses a session, again and again, while clients are connected. */
const databaseForgets: Scenario = { ...cuts, name: "databaseForgets", database: true, forgets: true, messages: 60 }

/** The same with two servers. */
const databaseForgetsTwo: Scenario = { ...databaseForgets, name: "databaseForgetsTwo", servers: 2 }

/** Small queues and short lives, in a database. */
const databaseOverflow: Scenario = { ...overflow, name: "databaseOverflow", database: true, crash: "storesKept" }

/** Two servers on one database; clients go to either, and servers stand still or are killed. */
const databaseServers: Scenario = { ...twoServers, name: "databaseServers", database: true, crash: "storesKept" }

/** Servers that stand still for longer than others wait, while a handler runs and messages wait behind it. */
const databasePauses: Scenario = {
  ...twoServers,
  name: "databasePauses",
  database: true,
  handlers: { fail: 0.05, poison: 0.02, slowMillis: 800, slow: 0.7, answers: 0.6 }
}

/** Two servers, and everything at once. */
const databaseHostile: Scenario = { ...hostile, name: "databaseHostile", database: true, servers: 2 }

/** The same on two servers: one may be killed, while the other goes on. */
const cluster: Scenario = { ...hostile, name: "cluster", servers: 2 }

export const scenarios = {
  calm,
  cuts,
  backpressure,
  overflow,
  crashes,
  amnesia,
  takeover,
  stores,
  pauses,
  twoServers,
  hostile,
  databaseCrashes,
  databaseFaults,
  databaseDeploys,
  databaseLosses,
  databaseFailover,
  databaseForgets,
  databaseForgetsTwo,
  databaseOverflow,
  databaseServers,
  databasePauses,
  databaseHostile,
  cluster,
  living
}
