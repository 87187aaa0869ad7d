/** Reads stored outboxes: chunks decoded, with the gaps laid over them. */
import { Effect } from "effect"
import type { OutboxMessage, Slot } from "../../core/Outbox.ts"
import type { Calls } from "./calls.ts"
import { decodeChunk } from "./chunk.ts"
import { type StoreDriver, StoreError } from "./driver.ts"
import { type Chunk, type Fate, type Gap, isSwept, type OutboxState } from "./outboxes.ts"
import { overlay } from "./storedLog.ts"
import { ifStorable } from "./texts.ts"

/** A part of an outbox. */
export interface Page {
  readonly state: OutboxState
  readonly slots: ReadonlyArray<Slot>
  readonly chunks: ReadonlyArray<Chunk>
  /** All gaps that end after the page begins. */
  readonly gaps: ReadonlyArray<Gap>
  readonly more: boolean
  /** The next page begins after this offset. */
  readonly end: number
}

/** Everything in an outbox that is not done with. Chunks come without their bodies. */
export interface Contents {
  readonly state: OutboxState
  readonly messages: ReadonlyArray<OutboxMessage>
  readonly chunks: ReadonlyArray<Chunk>
  readonly gaps: ReadonlyArray<Gap>
}

export interface OutboxReader {
  readonly readPage: (session: string, after: number) => Effect.Effect<Page | undefined, StoreError>
  /** Undefined when there is no such outbox. */
  readonly readAll: (session: string) => Effect.Effect<Contents | undefined, StoreError>
  /** What became of the messages at these offsets, and of any between them. */
  readonly readFates: (
    session: string,
    offsets: ReadonlyArray<number>
  ) => Effect.Effect<ReadonlyArray<Fate>, StoreError>
}

const pageChunks = 64
const pageBytes = 256 * 1024
/** Others may change an outbox while it is read: reading begins again, at most this often. */
const maxLooks = 16

export const makeOutboxReader = (driver: StoreDriver, call: Calls): OutboxReader => {
  const readPage = (session: string, after: number): Effect.Effect<Page | undefined, StoreError> =>
    Effect.flatMap(
      ifStorable(
        "read",
        [session],
        call("read", driver.read({ session, after, maxChunks: pageChunks, maxBytes: pageBytes }))
      ),
      (page): Effect.Effect<Page | undefined, StoreError> => {
        if (page === undefined) return Effect.succeed(undefined)
        const { chunks, gaps, more, state } = page
        const messages: Array<OutboxMessage> = []
        for (const chunk of chunks) {
          const decoded = decodeChunk(chunk)
          if (decoded instanceof StoreError) return Effect.fail(decoded)
          for (const message of decoded) messages.push(message)
        }
        const end = more ? chunks[chunks.length - 1]?.last ?? after : state.last
        return Effect.succeed({ slots: overlay(messages, gaps, after, end), chunks, more, end, state, gaps })
      }
    )

  const readAll = Effect.fnUntraced(function*(session: string): Effect.fn.Return<Contents | undefined, StoreError> {
    for (let look = 0; look < maxLooks; look++) {
      const messages: Array<OutboxMessage> = []
      const chunks: Array<Chunk> = []
      let page = yield* readPage(session, 0)
      const revision = page?.state.revision
      while (page !== undefined && page.state.revision === revision) {
        for (const slot of page.slots) if (slot.kind === "message") messages.push(slot)
        for (const chunk of page.chunks) chunks.push({ ...chunk, body: "" })
        if (!page.more) {
          const { gaps, state } = page
          return { messages: messages.filter(({ offset }) => offset > state.acked), chunks, state, gaps }
        }
        page = yield* readPage(session, page.end)
      }
      if (page === undefined) return undefined
    }
    return yield* Effect.fail(new StoreError("read", new Error("others change the outbox all the time")))
  })

  const readFates: OutboxReader["readFates"] = (session, offsets) =>
    Effect.map(
      call("fates", driver.fates(session, Math.min(...offsets), Math.max(...offsets))),
      (fates) => fates.filter((fate) => !isSwept(fate))
    )

  return { readPage, readAll, readFates }
}
