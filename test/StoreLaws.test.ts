/** The stores of this package keep the laws that they all have to, and the laws notice one that does not. */
import { MemoryStore } from "resilient-websocket"
import { storeLaws } from "./support/storeLaws.ts"

storeLaws("MemoryStore", MemoryStore.layer)
