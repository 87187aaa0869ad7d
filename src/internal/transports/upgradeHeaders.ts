/** Headers of an upgrade that are the WebSocket protocol's own. */

/** Headers that every upgrade has and that say nothing about the peer. A connection need not keep them in memory. */
export const handshakeHeaders = new Set([
  "connection",
  "upgrade",
  "sec-websocket-key",
  "sec-websocket-version",
  "sec-websocket-extensions"
])
