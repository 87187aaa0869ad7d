/** Rows of cells as text: in columns for a terminal, or as Markdown. */

export interface Table {
  /** So many columns are words; the others are figures, and flush right. */
  readonly words: number
  readonly head: ReadonlyArray<string>
  readonly rows: ReadonlyArray<ReadonlyArray<string>>
}

export const toText = ({ head, rows, words }: Table): string => {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)))
  const line = (row: ReadonlyArray<string>) =>
    row.map((cell, i) => i < words ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)).join("  ").trimEnd()
  const rule = "─".repeat(widths.reduce((sum, width) => sum + width + 2, -2))
  return [line(head), rule, ...rows.map(line)].join("\n")
}

export const toMarkdown = ({ head, rows, words }: Table): string => {
  const line = (row: ReadonlyArray<string>) => `| ${row.join(" | ")} |`
  return [line(head), line(head.map((_, i) => i < words ? "---" : "---:")), ...rows.map(line)].join("\n")
}
