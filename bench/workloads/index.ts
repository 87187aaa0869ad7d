/** All workloads, in the order in which they run. */
import type { Workload } from "../harness/Workload.ts"
import { w7 } from "./broadcast.ts"
import { w8a, w8b, w8c } from "./growth.ts"
import { w5 } from "./idle.ts"
import { w4 } from "./latency.ts"
import { w6 } from "./reconnect.ts"
import { w9a, w9b } from "./stored.ts"
import { w1, w2, w3 } from "./throughput.ts"

export const workloads: ReadonlyArray<Workload> = [w1, w2, w3, w4, w5, w6, w7, w8a, w8b, w8c, w9a, w9b]
