/**
 * What ids, tokens and other names may be (PROTOCOL.md §3.1): one rule, for the decoder and for the sender. What a
 * database or another language can't hold (U+0000, half a surrogate pair) is no text here, so that it never gets as far
 * as a store.
 */
import { maxAuthBytes, maxIdLength, maxRejectionBytes, type Rejection } from "./Protocol.ts"
import { utf8Length } from "./utf8.ts"

const maxEndpointLength = 2048

/** Well-formed Unicode without U+0000, and not empty. */
export const isText = (value: unknown): value is string =>
  typeof value === "string" && value.length > 0 && !value.includes("\u0000") && value.isWellFormed()

/** Session ids, instances, epochs, tokens, message ids. */
export const isId = (value: unknown): value is string =>
  typeof value === "string" && value.length <= maxIdLength && isText(value)

/** What an id has to be, in words for people. */
export const idRule = `1 to ${maxIdLength} characters of well-formed Unicode without U+0000`

/** An authentication token. */
export const isAuth = (value: unknown): value is string =>
  typeof value === "string" && value.length <= maxAuthBytes && isText(value) && utf8Length(value) <= maxAuthBytes

/** What such a token has to be, in words for people. */
export const authRule = `1 to ${maxAuthBytes} bytes of well-formed Unicode without U+0000`

/** Where a drain sends a client. */
export const isEndpoint = (value: unknown): value is string =>
  typeof value === "string" && value.length <= maxEndpointLength && isText(value)

const rejected = "rejected:"

export const isRejection = (value: unknown): value is Rejection =>
  typeof value === "string" && value.startsWith(rejected) && isText(value) &&
  utf8Length(value) <= rejected.length + maxRejectionBytes

/** Cut to what is allowed. */
export const rejectionOf = (detail: string): Rejection =>
  `${rejected}${beginning(detail.toWellFormed().replaceAll("\u0000", "\ufffd"), maxRejectionBytes)}`

/** The words of a rejection; undefined for any other reason. */
export const detailOf = (reason: string): string | undefined =>
  reason.startsWith(rejected) ? reason.slice(rejected.length) : undefined

/** The beginning of `text` that fits into `maxBytes` of UTF-8; no pair of surrogates is cut in two. */
export const beginning = (text: string, maxBytes: number): string => {
  if (text.length * 3 <= maxBytes || utf8Length(text) <= maxBytes) return text
  let end = Math.min(text.length, maxBytes)
  while (utf8Length(text.slice(0, end)) > maxBytes) end--
  const last = text.charCodeAt(end - 1)
  return text.slice(0, last >= 0xd800 && last < 0xdc00 ? end - 1 : end)
}
