/**
 * The table in coverage.md is true as far as a machine can tell: every file it cites is there and has the test it cites by
 * name, every row has a state, what is partly there says what lacks, and what is called done has a test.
 */
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

interface Row {
  readonly line: number
  readonly section: string
  readonly what: string
  readonly state: string
  /** `key: name of a test`, one a line of the cell. */
  readonly cites: readonly { readonly key: string; readonly name: string }[]
}

const here = dirname(fileURLToPath(import.meta.url))
const repository = dirname(dirname(here))

/** Cells of a table's line, or undefined for any other line. */
function cells(line: string): string[] | undefined {
  if (!line.startsWith('|') || /^\|[\s:|-]+\|$/.test(line)) return undefined
  return line
    .slice(1, -1)
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll('\\|', '|'))
}

const files = new Map<string, string>()
const rows: Row[] = []
for (const [at, line] of readFileSync(join(here, 'coverage.md'), 'utf8').split('\n').entries()) {
  const row = cells(line)
  if (row === undefined || row[0] === 'key' || row[0] === 'section') continue
  if (row.length === 2) files.set(row[0]!, row[1]!.replaceAll('`', ''))
  else {
    const [section = '', what = '', state = '', tests = ''] = row
    const cites = tests
      .split('<br>')
      .filter((cite) => cite !== '')
      .map((cite) => {
        const colon = cite.indexOf(': ')
        return { key: cite.slice(0, colon).trim(), name: cite.slice(colon + 2).trim() }
      })
    rows.push({ line: at + 1, section, what, state, cites })
  }
}
const sources = new Map<string, string>()
for (const [key, path] of files)
  if (existsSync(join(repository, path))) sources.set(key, readFileSync(join(repository, path), 'utf8'))

/** The source begins a string with this name where a test is named. */
function has(source: string, name: string): boolean {
  return [`'${name}'`, `"${name}"`, `\`${name}\``].some((quoted) => source.includes(quoted))
}

describe('the table of what the RFCs ask for', () => {
  test('is read whole', () => {
    expect(files.size).toBeGreaterThan(5)
    expect(rows.length).toBeGreaterThan(150)
    for (const { line, section, what, state } of rows)
      expect([line, section !== '' && what !== '' && /^(?:done|partly: .+|not(?:: .+)?)$/.test(state)]).toEqual([
        line,
        true,
      ])
    const states = Map.groupBy(rows, ({ state }) => state.split(':', 1)[0]!)
    console.log([...states].map(([state, { length }]) => `${state} ${length}`).join(', '))
  })
  test('cites files that exist', () => {
    expect([...files].filter(([key]) => !sources.has(key))).toEqual([])
  })
  test('cites tests that are in those files', () => {
    const missing = rows.flatMap(({ line, cites }) =>
      cites.filter(({ key, name }) => !has(sources.get(key) ?? '', name)).map((cite) => ({ line, ...cite })),
    )
    expect(missing).toEqual([])
  })
  test('calls nothing done that no test is cited for', () => {
    expect(rows.filter(({ state, cites }) => state === 'done' && cites.length === 0)).toEqual([])
  })
})
