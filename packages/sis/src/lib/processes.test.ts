/** Real processes on a real directory: they save, release and sweep side by side, some are killed in the middle, and nothing is missing. */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { posixFs } from '@mailstead/fs/posix'
import { expect, test } from 'vitest'
import { depth, say } from '../../../../tests/support/depth.ts'
import { openSis } from './sis.ts'

const worker = fileURLToPath(new URL('../../test/worker.ts', import.meta.url))
const rounds = { normal: 1, ci: 3, soak: 1000 }[depth()]
const STEPS = 60

/** Runs a worker; kills it after it has said `killAfter` lines, if that is given. Resolves to what it said. */
async function run(root: string, seed: number, killAfter: number | undefined): Promise<string[]> {
  const args = ['--no-warnings', '--conditions=@mailstead/source', worker, root, String(seed), String(STEPS)]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', (data: Buffer) => {
    text += data.toString()
    if (killAfter !== undefined && text.split('\n').length > killAfter) child.kill('SIGKILL')
  })
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
    child.on('close', (...ended) => {
      resolve(ended)
    })
  })
  expect(code === 0 || signal === 'SIGKILL').toBe(true)
  return text.split('\n').slice(0, -1)
}

test('processes that save, release, sweep and are killed lose nothing that was acknowledged', async () => {
  const root = mkdtempSync(join(tmpdir(), 'mailstead-sis-'))
  const counts = { puts: 0, releases: 0, sweeps: 0, stale: 0, killed: 0 }
  try {
    const live = new Map<string, { content: number; uses: number }>()
    for (let round = 0; round < rounds; round++) {
      const said = await Promise.all(
        [0, 1, 2, 3].map((n) => run(root, 1000 * round + n, n % 2 === 1 ? 10 + 7 * n : undefined)),
      )
      counts.killed += 2
      for (const line of said.flat()) {
        const [what, first, second] = line.split(' ')
        if (what === 'put') {
          counts.puts++
          const known = live.get(second!)
          if (known === undefined) live.set(second!, { content: Number(first), uses: 1 })
          else known.uses++
        }
      }
      for (const line of said.flat()) {
        const [what, ref] = line.split(' ')
        if (what === 'release') {
          counts.releases++
          live.get(ref!)!.uses--
        } else if (what === 'swept') counts.sweeps++
        else if (what === 'stale') counts.stale++
      }
      await using fs = await posixFs(root)
      await using sis = await openSis(fs, 'a', { graceMs: 20 })
      for (const [hex, { content, uses }] of live) {
        if (uses === 0) continue
        await using reader = await sis.open(Buffer.from(hex, 'hex'))
        const bytes = Buffer.alloc(reader.size)
        await reader.read(bytes, 0)
        expect(bytes.equals(Buffer.alloc(2000 + content, `content ${content} `))).toBe(true)
      }
      const found = (await Array.fromAsync(sis.check())).flat()
      expect(found.filter(({ severity }) => severity === 'damage')).toEqual([])
      // Killed between the commit and saying so: used once more than was told, never less.
      const told = [...live.values()].reduce((sum, { uses }) => sum + uses, 0)
      expect((await sis.stats()).references).toBeGreaterThanOrEqual(told)
    }
    say(`sis processes: ${JSON.stringify(counts)}`)
  } finally {
    rmSync(root, { recursive: true })
  }
})
