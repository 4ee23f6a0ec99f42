/**
 * Several processes of one user, each killed now and then in the middle of what it does, beside somebody who changes the shared
 * mailbox: what was acknowledged is there, and no client that went away from any of them misses anything.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { posixFs } from '@mailstead/fs/posix'
import { UidSet } from '@mailstead/uidset'
import { afterAll, expect, test } from 'vitest'
import { depth, runSeed } from '../../../../tests/support/depth.ts'
import { createShared, MAILBOX, openHandle, randomOf, resync } from '../../test/private-world.ts'

const PROCESSES = 3
const MESSAGES = 24
const KILLS = depth() === 'soak' ? 100_000 : depth() === 'ci' ? 6 : 1
/** Changes of each process between two kills. */
const ENOUGH = 5

const directory = mkdtempSync(join(tmpdir(), 'mailstead-private-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))
const worker = fileURLToPath(new URL('../../test/private-worker.ts', import.meta.url))

interface Told {
  readonly uid: number
  readonly flags: number
  readonly modSeq: number
  readonly seen: string
}

interface Worker {
  readonly child: ChildProcess
  readonly told: Told[]
  readonly complaints: string[]
  readonly dead: Promise<void>
}

function start(lane: number): Worker {
  const args = ['--conditions=@mailstead/source', worker, directory, String(lane), String(PROCESSES), String(MESSAGES)]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const told: Told[] = []
  const complaints: string[] = []
  let rest = ''
  child.stdout.setEncoding('latin1')
  child.stdout.on('data', (text: string) => {
    const lines = (rest + text).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      const [uid, flags, modSeq, seen] = line.split(' ') as [string, string, string, string]
      told.push({ uid: Number(uid), flags: Number(flags), modSeq: Number(modSeq), seen })
    }
  })
  child.stderr.setEncoding('utf8')
  child.stderr.on('data', (text: string) => complaints.push(text))
  return { child, told, complaints, dead: new Promise((resolve) => child.on('close', () => resolve())) }
}

test('processes of one user that are killed at any moment lose nothing that was told, and no client misses anything', async () => {
  const random = randomOf(runSeed())
  const fs = await posixFs(directory)
  await using shared = await createShared(fs)
  {
    await using tx = shared.begin()
    tx.appendRows(MAILBOX, { count: MESSAGES })
    await tx.commit()
  }
  const policy = { default: 'shared' as const, rules: [{ pattern: '\\Seen', class: 'private' as const }] }
  const everyone: Worker[] = []
  const lanes = Array.from({ length: PROCESSES }, (_, lane) => {
    const first = start(lane)
    everyone.push(first)
    return [first]
  })
  for (let kill = 0; kill < KILLS; kill++) {
    const running = lanes.map((lane) => lane.at(-1)!)
    const before = running.map(({ told }) => told.length)
    // Somebody else is at work as long as it takes.
    while (running.some(({ told, child }, i) => child.exitCode === null && told.length < before[i]! + ENOUGH)) {
      await using tx = shared.begin()
      tx.changeFlags(MAILBOX, UidSet.of(1 + random(MESSAGES)), random(2) === 0 ? { add: 2 } : { remove: 2 })
      await tx.commit()
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
    const at = random(PROCESSES)
    running[at]!.child.kill('SIGKILL')
    await running[at]!.dead
    const next = start(at)
    everyone.push(next)
    lanes[at]!.push(next)
  }
  for (const { child, dead } of lanes.map((lane) => lane.at(-1)!)) {
    child.kill('SIGKILL')
    await dead
  }
  expect(everyone.flatMap(({ complaints }) => complaints)).toEqual([])
  await using ann = await openHandle({ user: 'ann', sharedFs: fs, ownFs: fs, policy })
  const { view } = ann.overlay
  let clients = 0
  for (const [number, lane] of lanes.entries()) {
    // What was wanted last of each message, unless the change after it was under way when the process was killed.
    const last = new Map<number, Told>()
    for (const { told } of lane) for (const one of told) last.set(one.uid, one)
    const unsure = new Set(lane.flatMap(({ told }) => unsureOf(told, number)))
    for (const { uid, flags } of last.values()) if (!unsure.has(uid)) expect(view.flags(uid - 1) & 8).toBe(flags)
    for (const { told } of lane)
      for (const { modSeq, seen } of told) {
        clients++
        const known = new Map(Array.from(Buffer.from(seen, 'latin1'), (code, i) => [i + 1, `${code - 65} `]))
        const back = resync({ seen: known, modSeq, uidNext: MESSAGES + 1, clock: undefined }, ann.overlay).seen
        for (let row = 0; row < view.count; row++) expect(back.get(row + 1)).toBe(`${view.flags(row)} `)
      }
  }
  console.log(`processes of one user: ${KILLS + PROCESSES} killed, ${clients} clients came back`)
  expect(clients).toBeGreaterThan(KILLS * ENOUGH)
})

/** The message that a killed process was at after the last it told of. */
function unsureOf(told: readonly Told[], lane: number): number[] {
  const last = told.at(-1)
  if (last === undefined) return [1 + lane]
  const next = last.uid + PROCESSES
  return [last.uid, next > MESSAGES ? 1 + lane : next]
}
