/** A rebuild of a large store takes a bounded memory, whatever was lost. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { deep, say } from '../support/depth.ts'

const MESSAGES = deep() ? 50_000 : 500
/** MB of the whole process, Node and the program included. */
const MEMORY_MAX = 256
const scratch = mkdtempSync(join(tmpdir(), 'mailstead-rebuild-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

function child(...args: readonly string[]): string {
  const script = join(import.meta.dirname, 'memory-child.ts')
  // How much garbage V8 lets pile up before it looks at it is not what is measured.
  const flags = ['--max-semi-space-size=8', '--conditions=@mailstead/source']
  return execFileSync(process.execPath, [...flags, script, ...args], { encoding: 'utf8' })
}

test(`${MESSAGES} messages are rebuilt within ${MEMORY_MAX} MB`, () => {
  const made = join(scratch, 'made')
  cpSync(mkdtempSync(join(scratch, 'empty-')), made, { recursive: true })
  child('make', made, `${MESSAGES}`)
  for (const what of ['map', 'index']) {
    const copy = join(scratch, what)
    cpSync(made, copy, { recursive: true })
    const { rows, seconds, cpu, megabytes } = JSON.parse(child(what, copy)) as Record<string, number>
    say(
      `rebuild without its ${what}: ${rows} rows in ${seconds!.toFixed(1)} s (${cpu!.toFixed(1)} s of CPU), ${megabytes!.toFixed(0)} MB`,
    )
    expect(rows).toBeGreaterThan(MESSAGES / 2)
    expect(megabytes).toBeLessThan(MEMORY_MAX)
  }
})
