/** Tables as docs/benchmarks.md has them. */

export function tableLine(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |\n`
}

export function tableHead(cells: readonly string[]): string {
  return tableLine(cells) + tableLine(cells.map(() => '---'))
}
