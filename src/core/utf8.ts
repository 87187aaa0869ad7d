/** The length of a string as UTF-8, in bytes: what all byte limits of the protocol count. */
export const utf8Length: (text: string) => number = typeof Buffer === "function"
  // Node counts natively; elsewhere the loop below is enough.
  ? (text) => Buffer.byteLength(text)
  : (text) => {
    let bytes = text.length
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i)
      if (unit < 0x80) continue
      if (unit < 0x800) bytes += 1
      else if (unit >= 0xd800 && unit < 0xdc00 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
        bytes += 2 // a pair is two units and four bytes
        i++
      } else bytes += 2
    }
    return bytes
  }
