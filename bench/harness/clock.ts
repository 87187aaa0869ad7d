/** One clock for all processes of a machine: CLOCK_MONOTONIC. */

/** Milliseconds since some moment, the same in every process; finer than a microsecond. */
export const now = (): number => {
  const [seconds, nanos] = process.hrtime()
  return seconds * 1e3 + nanos / 1e6
}
