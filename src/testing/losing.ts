/** Finds the frames that are to be lost: the next ack, the next welcome, the next message. */
import { decode } from "../core/Codec.ts"
import { subprotocol } from "../core/Protocol.ts"
import type { Direction } from "./delayLine.ts"

/** An ack counts if it tells of something handled that no frame of its connection told of before. */
export type Kind = "ack" | "welcome" | "message"

interface Wish {
  readonly kind: Kind
  readonly direction: Direction | undefined
}

/** What is to be lost, each once, on whatever connection it comes first. */
export class Losses {
  private wishes: ReadonlyArray<Wish> = []

  add(kind: Kind, direction?: Direction): void {
    this.wishes = [...this.wishes, { kind, direction }]
  }

  clear(): void {
    this.wishes = []
  }

  /** Whether one of these is to be lost; if so, that wish is fulfilled. */
  take(kinds: ReadonlyArray<Kind>, direction: Direction): boolean {
    const wish = this.wishes.find((wish) =>
      kinds.includes(wish.kind) && (wish.direction === undefined || wish.direction === direction)
    )
    this.wishes = this.wishes.filter((other) => other !== wish)
    return wish !== undefined
  }
}

/** Tells, of each frame of one connection, what it is. Frames of plain peers are nothing. */
export const makeReader = (protocol: string) => {
  /** By direction, up to where acks that went this way say that messages are handled. */
  const handled: Record<Direction, number> = { toServer: 0, toClient: 0 }
  return (direction: Direction, data: string | Uint8Array): ReadonlyArray<Kind> => {
    if (protocol !== subprotocol || typeof data !== "string") return []
    const frame = decode(data)
    switch (frame.t) {
      case "hello":
      case "welcome":
        handled[direction] = frame.in.handled
        return frame.t === "welcome" ? ["welcome"] : []
      case "batch":
      case "ack":
      case "pong": {
        const kinds: Array<Kind> = frame.t === "batch" ? ["message"] : []
        const [, position] = frame.a ?? [0, 0]
        if (position > handled[direction]) kinds.push("ack")
        handled[direction] = Math.max(handled[direction], position)
        return kinds
      }
      default:
        return []
    }
  }
}
