/** Sums over the whole store, kept up to date: one row, written once per transaction. */
import type { Prepare, Query } from "./queries.ts"
import type { Names } from "./schema.ts"

export interface Sums {
  readonly outboxes: number
  readonly messages: number
  readonly bytes: number
  readonly keys: number
}

/**
 * Gathers what a transaction changes; `flush` writes it as the last step. Work that throws is rolled back, and `forget`
 * then drops what it gathered.
 */
export class Totals {
  private outboxes = 0
  private messages = 0
  private bytes = 0
  private keys = 0
  private readonly select: Query<Sums>
  private readonly update: Query<never>

  constructor(prepare: Prepare, names: Names) {
    this.select = prepare<Sums>(`SELECT outboxes, messages, bytes, keys FROM ${names.store}`)
    this.update = prepare(
      `UPDATE ${names.store}
       SET outboxes = outboxes + ?, messages = messages + ?, bytes = bytes + ?, keys = keys + ?`
    )
  }

  add({ bytes = 0, keys = 0, messages = 0, outboxes = 0 }: Partial<Sums>): void {
    this.outboxes += outboxes
    this.messages += messages
    this.bytes += bytes
    this.keys += keys
  }

  /** The present sums, in this transaction. */
  get sums(): Sums {
    const { bytes, keys, messages, outboxes } = this.select.get() ?? { bytes: 0, keys: 0, messages: 0, outboxes: 0 }
    return {
      outboxes: outboxes + this.outboxes,
      messages: messages + this.messages,
      bytes: bytes + this.bytes,
      keys: keys + this.keys
    }
  }

  flush(): void {
    const { bytes, keys, messages, outboxes } = this
    this.forget()
    if (outboxes !== 0 || messages !== 0 || bytes !== 0 || keys !== 0) this.update.run(outboxes, messages, bytes, keys)
  }

  forget(): void {
    this.outboxes =
      this.messages =
      this.bytes =
      this.keys =
        0
  }
}
