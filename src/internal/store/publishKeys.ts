/** Publish keys as a driver stores them: what a driver is asked, and what it answers. */
import type { Receipt } from "../../Deduplicator.ts"

export interface KeyTarget {
  readonly scope: string
  readonly key: string
}

export interface PublishKey extends KeyTarget {
  readonly fingerprint: string | undefined
  /** Keys committed before this are forgotten. */
  readonly forgottenBefore: number
  /** No new key is taken when this many are kept. */
  readonly maxKeys: number
}

export interface ClaimKeyRequest extends PublishKey {
  readonly token: string
  readonly now: number
  readonly until: number
}

export type ClaimKeyResult =
  | { readonly _tag: "Claimed" }
  | { readonly _tag: "Duplicate"; readonly receipt: Receipt }
  /** Both fingerprints are given, and they differ. `receipt` is there if the key is committed. */
  | { readonly _tag: "Mismatch"; readonly receipt: Receipt | undefined }
  | { readonly _tag: "InFlight"; readonly until: number }
  | { readonly _tag: "Full" }

export interface KeyClaim extends KeyTarget {
  readonly token: string
  readonly now: number
}
