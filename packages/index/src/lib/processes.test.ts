import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { posixFs } from '@mailstead/fs/posix'
import { afterAll, expect, test } from 'vitest'
import type { IndexFinding } from './contract.ts'
import { openIndex } from './open-index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const kills = depth === 'soak' ? 10_000 : depth === 'ci' ? 60 : 4
const directory = mkdtempSync(join(tmpdir(), 'mailstead-index-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const worker = fileURLToPath(new URL('../../test/commit-worker.ts', import.meta.url))

/** Commits until it is killed; prints a line for each commit that was acknowledged: what it appended, as UID and number. */
function start(name: number): { child: ChildProcess; acknowledged: [uid: number, tag: number][]; dead: Promise<void> } {
  const child = spawn(process.execPath, ['--conditions=@mailstead/source', worker, directory, String(name)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const acknowledged: [number, number][] = []
  let rest = ''
  child.stdout.setEncoding('utf8')
  child.stdout.on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      const [uid, tag] = line.split(' ').map(Number)
      acknowledged.push([uid!, tag!])
    }
  })
  const dead = new Promise<void>((resolve) => child.on('close', () => resolve()))
  return { child, acknowledged, dead }
}

test('two processes commit at once, each in turn is killed, and nothing acknowledged is lost', async () => {
  await using fs = await posixFs(directory)
  {
    await using index = await openIndex(fs, 'store', { create: true })
    await using tx = index.begin()
    tx.createTable({ id: 'box', uidValidity: 1, columns: [{ name: 'uses', bytes: 4 }] })
    tx.createTable({
      id: 'inbox',
      uidValidity: 1,
      columns: [
        { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
        { name: 'tag', bytes: 6 },
      ],
    })
    await tx.commit()
  }
  const all: (readonly [uid: number, tag: number])[] = []
  let next = 0
  const workers = [start(++next), start(++next)]
  await using watching = await openIndex(fs, 'store')
  await using inbox = (await watching.open('inbox'))!
  let told = 0
  using _watch = inbox.watch(() => told++)
  let seen = inbox.view
  for (let kill = 0; kill < kills; kill++) {
    const at = kill % 2
    const one = workers[at]!
    // Until both commit, then a moment more, never the same one.
    const deadline = performance.now() + 20_000
    while (workers.some((w) => w.acknowledged.length < 5) && performance.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 5))
    expect(workers.every((w) => w.acknowledged.length > 0)).toBe(true)
    await new Promise((resolve) => setTimeout(resolve, 10 + ((kill * 37) % 60)))
    one.child.kill('SIGKILL')
    await one.dead
    all.push(...one.acknowledged)
    // While a writer is at work, the newest frames may be shown a moment later.
    const last = Math.max(...one.acknowledged.map(([uid]) => uid))
    const patience = performance.now() + 20_000
    do await watching.refresh()
    while (inbox.view.uidNext <= last && performance.now() < patience)
    const { view } = inbox
    expect(view.uidNext).toBeGreaterThanOrEqual(seen.uidNext)
    expect(view.highestModSeq).toBeGreaterThanOrEqual(seen.highestModSeq)
    for (const [uid, tag] of one.acknowledged)
      expect(view.extension('tag')!.number(view.rowOf(uid)), `UID ${uid} of a killed process`).toBe(tag)
    seen = view
    workers[at] = start(++next)
  }
  for (const one of workers) {
    one.child.kill('SIGKILL')
    await one.dead
    all.push(...one.acknowledged)
  }
  expect(told).toBeGreaterThan(0)
  await watching.refresh()
  const { view } = inbox
  expect(new Set(all.map(([uid]) => uid)).size).toBe(all.length)
  for (const [uid, tag] of all) expect(view.extension('tag')!.number(view.rowOf(uid))).toBe(tag)
  const findings: IndexFinding[] = []
  for await (const page of watching.check()) findings.push(...page)
  expect(findings.filter((one) => one.severity === 'damage')).toEqual([])
  console.log(`processes: ${kills} kills, ${all.length} acknowledged commits, ${view.count} rows, told ${told} times`)
})
