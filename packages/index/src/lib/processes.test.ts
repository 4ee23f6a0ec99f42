import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { posixFs } from '@mailstead/fs/posix'
import { afterAll, expect, test } from 'vitest'
import type { IndexFinding, TableView } from './contract.ts'
import { openIndex } from './open-index.ts'

const depth = process.env['MAILSTEAD_DEPTH']
/** So many kills at least, and for so long, in milliseconds. */
const kills = depth === 'soak' ? 10_000 : 4
const forMs = depth === undefined ? 0 : 30_000
const PROCESSES = 4
/** Commits of each process between two kills. */
const ENOUGH = 5
const directory = mkdtempSync(join(tmpdir(), 'mailstead-index-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const worker = fileURLToPath(new URL('../../test/commit-worker.ts', import.meta.url))

/** What a process was told: that a message has a UID, and what it then saw. */
interface Told {
  readonly uid: number
  readonly tag: number
  readonly uidNext: number
  readonly modSeq: number
}

interface Worker {
  readonly child: ChildProcess
  readonly told: Told[]
  readonly complaints: string[]
  readonly dead: Promise<void>
  /** How many commits had been told of when somebody was killed last. */
  before: number
}

/** Commits until it is killed. */
function start(name: number): Worker {
  const child = spawn(process.execPath, ['--conditions=@mailstead/source', worker, directory, String(name)], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const told: Told[] = []
  const complaints: string[] = []
  let rest = ''
  child.stdout.setEncoding('utf8')
  child.stdout.on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (line.startsWith('!')) complaints.push(line)
      const [uid, tag, uidNext, modSeq] = line.split(' ').map(Number)
      if (!line.startsWith('!')) told.push({ uid: uid!, tag: tag!, uidNext: uidNext!, modSeq: modSeq! })
    }
  })
  child.stderr.setEncoding('utf8')
  child.stderr.on('data', (text: string) => complaints.push(text))
  const dead = new Promise<void>((resolve) => child.on('close', () => resolve()))
  return { child, told, complaints, dead, before: 0 }
}

function expectTold(view: TableView, told: readonly Told[], whose: string): void {
  const tags = view.extension('tag')!
  for (const { uid, tag } of told) {
    const row = view.rowOf(uid)
    expect(row, `UID ${uid} (${tag}) of ${whose}, where UIDNEXT is ${view.uidNext}`).toBeGreaterThanOrEqual(0)
    expect(tags.number(row), `UID ${uid} of ${whose}`).toBe(tag)
  }
}

test('four processes commit and read at once, each in turn is killed, and nothing acknowledged is lost', async () => {
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
        { name: 'commits', bytes: 6 },
      ],
    })
    // Its column counts all commits: what one process adds, no other takes back.
    tx.append('inbox', {})
    await tx.commit()
  }
  const all: Told[] = []
  let names = 0
  const workers = Array.from({ length: PROCESSES }, () => start(++names))
  await using watching = await openIndex(fs, 'store')
  await using inbox = (await watching.open('inbox'))!
  let changes = 0
  using _watch = inbox.watch(() => changes++)
  let seen = inbox.view
  const begun = performance.now()
  let kill = 0
  const expectWell = (): void => {
    for (const { complaints, child } of workers) {
      expect(complaints).toEqual([])
      expect(child.exitCode, 'a process ended by itself').toBe(null)
    }
  }
  try {
    for (; kill < kills || performance.now() - begun < forMs; kill++) {
      // Until all commit, then a moment more, never the same one: a lock that is stuck would stop it here.
      while (workers.some(({ told, before }) => told.length - before < ENOUGH)) {
        expectWell()
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
      for (const one of workers) one.before = one.told.length
      await new Promise((resolve) => setTimeout(resolve, (kill * 37) % 40))
      const at = kill % PROCESSES
      const one = workers[at]!
      one.child.kill('SIGKILL')
      await one.dead
      expect(one.complaints).toEqual([])
      all.push(...one.told)
      const uidNext = Math.max(...one.told.map((told) => told.uidNext))
      const modSeq = Math.max(...one.told.map((told) => told.modSeq))
      // While a writer is at work, the newest frames may be shown a moment later.
      do await watching.refresh()
      while (inbox.view.uidNext < uidNext || inbox.view.highestModSeq < modSeq)
      const { view } = inbox
      expect(view.uidNext).toBeGreaterThanOrEqual(seen.uidNext)
      expect(view.highestModSeq).toBeGreaterThanOrEqual(seen.highestModSeq)
      expectTold(view, one.told, 'a killed process')
      seen = view
      workers[at] = start(++names)
    }
    expectWell()
  } finally {
    for (const one of workers) {
      one.child.kill('SIGKILL')
      await one.dead
    }
  }
  for (const { told } of workers) all.push(...told)
  expect(changes).toBeGreaterThan(0)
  await watching.refresh()
  const { view } = inbox
  expect(new Set(all.map(({ uid }) => uid)).size).toBe(all.length)
  expectTold(view, all, 'any process')
  // No update was lost: each row but the first came with one addition.
  expect(view.extension('commits')!.number(0)).toBe(view.count - 1)
  const findings: IndexFinding[] = []
  for await (const page of watching.check()) findings.push(...page)
  expect(findings.filter((one) => one.severity === 'damage')).toEqual([])
  console.log(
    `processes: ${PROCESSES}, ${kill} kills, ${all.length} acknowledged commits, ${view.count} rows, told ${changes} times`,
  )
})
