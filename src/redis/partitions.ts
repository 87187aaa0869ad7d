/**
 * Where things are: the names of all keys, and which hash slot they are in. Sessions (and scopes of publish keys) are
 * spread over a fixed number of partitions; all keys of a partition have the same hash tag, so that one script can
 * change a session and its partition's indexes in one step, on a cluster too.
 *
 * Keys of partition `{<prefix>:<p>}`, by what follows the tag:
 *
 * | key | type | content |
 * |---|---|---|
 * | `:o:<session>` | hash | the outbox: `g`eneration, `e`poch, `a`cked, `l`ast, `m`essages, `b`ytes, `s`ent, `r`evision, e`x`piresAt, `n`ode, longest fate `w`, history in which it was settled `i`, how far it went then `z`, unsettled from `y`, which was noted in `v` |
 * | `:c:<session>` | stream | its chunks, by id `<last>-0` |
 * | `:g:<session>` | zset | its gaps, by end: `<first>:<end>:<reason>` |
 * | `:f:<session>` | zset | its fates, by first: `<first>:<end>:<reason>:<maybeHandled>:<at>` |
 * | `:r:<session>` | hash | the session's row and position |
 * | `:x:<session>` | string, expires | tombstone: the session was ended on purpose |
 * | `:totals` | hash | `o`utboxes, `m`essages, `b`ytes, `s`essions |
 * | `:fates` | zset | all fates, by when they were noted: `<first>:<session>` |
 * | `:detached` | zset | sessions by `detachedAt` |
 * | `:n:<node>` | set | sessions of a node |
 * | `:p:<principal>` | zset | sessions of a principal that don't end, by `detachedAt`; infinite while attached |
 * | `:u:<node>` | set | nudges for a node |
 * | `:w:<writer>` | hash | the newest batch of a writer: `s`equence, `r`esults |
 * | `:writers` | zset | writers, all with score 0: in the order of their names |
 * | `:keys` | hash | publish keys, packed |
 * | `:committed`, `:claimed` | zset | publish keys, by commit, by end of the claim |
 *
 * Partition 0 also has `:nodes` (zset, by when they were seen) and `:format`.
 */

export interface Partition {
  readonly index: number
  /** The hash tag, with braces. */
  readonly tag: string
  readonly format: string
  readonly totals: string
  readonly fates: string
  readonly detached: string
  readonly writers: string
  readonly keys: string
  readonly committed: string
  readonly claimed: string
}

export interface Partitions {
  readonly all: ReadonlyArray<Partition>
  /** Holds what the store has only once. */
  readonly first: Partition
  readonly of: (name: string) => Partition
  /** The channel that tells a node of its nudges. */
  readonly channel: (node: string) => string
}

export const makePartitions = (prefix: string, size: number): Partitions => {
  const first = makePartition(prefix, 0)
  const all = [first, ...Array.from({ length: size - 1 }, (_, i) => makePartition(prefix, i + 1))]
  return {
    all,
    first,
    of: (name) => all[hash(name) % size] ?? first,
    channel: (node) => `${prefix}:nudges:${node}`
  }
}

const makePartition = (prefix: string, index: number): Partition => {
  const tag = `{${prefix}:${index}}`
  return {
    index,
    tag,
    format: `${tag}:format`,
    totals: `${tag}:totals`,
    fates: `${tag}:fates`,
    detached: `${tag}:detached`,
    writers: `${tag}:writers`,
    keys: `${tag}:keys`,
    committed: `${tag}:committed`,
    claimed: `${tag}:claimed`
  }
}

/** FNV-1a over UTF-16 code units, mixed once more. It decides which partition data is in: never change it. */
const hash = (name: string): number => {
  let h = 0x811c9dc5
  for (let i = 0; i < name.length; i++) {
    const unit = name.charCodeAt(i)
    h = Math.imul(h ^ (unit & 0xff), 0x01000193)
    h = Math.imul(h ^ (unit >>> 8), 0x01000193)
  }
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  return (h ^ (h >>> 13)) >>> 0
}
