/** Repeated measurement of something synchronous or not: warm-up, repetitions, median and range. */

export interface Figure {
  readonly name: string
  readonly unit: string
  readonly median: number
  readonly min: number
  readonly max: number
}

export interface MicroOptions {
  readonly repetitions: number
  /** Scales how much work a repetition is: 1 in full, less for a quick look. */
  readonly size: number
}

/** One repetition's figures by name. */
export type Sample = Readonly<Record<string, number>>

/** Runs `sample` once for the JIT, unless it does so itself, then as often as asked; collects garbage in between. */
export const measure = async (
  options: {
    readonly repetitions: number
    /** By the names of a sample. */
    readonly units: Readonly<Record<string, string>>
    readonly warmUp?: () => unknown
  },
  sample: () => Sample | Promise<Sample>
): Promise<ReadonlyArray<Figure>> => {
  await (options.warmUp ?? sample)()
  const samples: Array<Sample> = []
  for (let i = 0; i < options.repetitions; i++) {
    globalThis.gc?.()
    samples.push(await sample())
  }
  return Object.entries(options.units).map(([name, unit]) => {
    const values = samples.map((values) => values[name] ?? Number.NaN).sort((a, b) => a - b)
    return { name, unit, median: medianOf(values), min: values[0] ?? Number.NaN, max: values.at(-1) ?? Number.NaN }
  })
}

const medianOf = (sorted: ReadonlyArray<number>): number => {
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

const digits = (value: number): string => value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 })

export const format = (title: string, figures: ReadonlyArray<Figure>): string =>
  [
    title,
    ...figures.map(({ max, median, min, name, unit }) =>
      `  ${name.padEnd(44)} ${digits(median).padStart(12)} ${unit.padEnd(12)} (${digits(min)} – ${digits(max)})`
    )
  ].join("\n")

/** Runs a micro-benchmark that was started as a program. */
export const runAlone = async (
  module: { readonly filename: string; readonly main: boolean },
  title: string,
  run: (options: MicroOptions) => Promise<ReadonlyArray<Figure>>
): Promise<void> => {
  if (!module.main) return
  const quick = process.argv.includes("--quick")
  console.log(format(title, await run({ repetitions: quick ? 3 : 7, size: quick ? 0.1 : 1 })))
}
