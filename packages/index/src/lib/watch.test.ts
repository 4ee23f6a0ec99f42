/**
 * Who watches an index hears of what other processes commit. Who watches, or is told of events, is a guest: what it throws is
 * its own failure, and nobody else's.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test, vi } from 'vitest'
import { createBoxAndInbox } from '../../test/schema.ts'
import { FLAG_SEEN, type Index } from './contract.ts'
import { openIndex } from './open-index.ts'

/** What is thrown for nobody to catch while `body` runs, and in the turn after it. */
async function uncaughtIn(body: () => Promise<void>): Promise<string[]> {
  const uncaught: string[] = []
  process.setUncaughtExceptionCaptureCallback((error) => uncaught.push(error.message))
  try {
    await body()
    await new Promise<void>((resolve) => setImmediate(resolve))
  } finally {
    process.setUncaughtExceptionCaptureCallback(null)
  }
  return uncaught
}

async function create(index: Index): Promise<void> {
  const tx = index.begin()
  createBoxAndInbox(tx)
  await tx.commit()
}

async function deliver(index: Index): Promise<void> {
  const tx = index.begin()
  const ref = tx.append('box', {})
  tx.append('inbox', { columns: { ref } })
  await tx.commit()
}

describe('a watcher', () => {
  test('hears of what another process commits, without anybody asking, and nothing is asked while nothing happens', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'mailstead-watch-'))
    const worker = fileURLToPath(new URL('../../test/commit-on-line.ts', import.meta.url))
    try {
      await using fs = await posixFs(directory)
      await using index = await openIndex(fs, 'store', { create: true })
      await create(index)
      const child = spawn(process.execPath, ['--conditions=@mailstead/source', worker, directory], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
      expect(await lines.next()).toMatchObject({ value: 'ready' })
      vi.useFakeTimers({ toFake: ['setTimeout', 'setInterval'] })
      let tell = (): void => {}
      await using inbox = (await index.open('inbox'))!
      using _watch = inbox.watch(() => tell())
      // Whoever polls has a timer.
      expect(vi.getTimerCount()).toBe(0)
      vi.useRealTimers()
      for (let uid = 1; uid <= 3; uid++) {
        const told = new Promise<void>((resolve) => {
          tell = () => inbox.view.count >= uid && resolve()
        })
        child.stdin.write('\n')
        expect(await lines.next()).toMatchObject({ value: String(uid) })
        await told
        expect(inbox.view.count).toBe(uid)
      }
      child.stdin.end()
      await new Promise((resolve) => child.once('close', resolve))
    } finally {
      vi.useRealTimers()
      rmSync(directory, { recursive: true, force: true })
    }
  })

  test('where the file system tells of nothing, hears of it when somebody here refreshes or commits', async () => {
    const fs = memoryFs({ watch: false })
    await using index = await openIndex(fs, 's', { create: true })
    await create(index)
    await using other = await openIndex(fs, 's')
    const told: string[] = []
    using _watch = other.watch((tables) => told.push([...tables].sort().join()))
    vi.useFakeTimers({ toFake: ['setTimeout', 'setInterval'] })
    try {
      await deliver(index)
      await new Promise<void>((resolve) => setImmediate(resolve))
      expect(vi.getTimerCount()).toBe(0)
      expect(told).toEqual([])
    } finally {
      vi.useRealTimers()
    }
    await other.refresh()
    expect(told).toEqual(['box,inbox'])
    await deliver(index)
    await deliver(other)
    expect(told).toEqual(['box,inbox', 'box,inbox'])
    expect(other.info('inbox')!.count).toBe(3)
  })
})

describe('a watcher that throws', () => {
  test('makes no commit fail, keeps no other from being told, and is heard of as an uncaught exception', async () => {
    await using index = await openIndex(memoryFs(), 's', { create: true })
    await create(index)
    await using inbox = (await index.open('inbox'))!
    const told: string[] = []
    using _first = inbox.watch(() => {
      throw new Error('the first of the table')
    })
    using _second = inbox.watch(() => told.push('table'))
    using _third = index.watch(() => {
      throw new Error('the first of the index')
    })
    using _fourth = index.watch((tables) => told.push([...tables].sort().join()))
    const uncaught = await uncaughtIn(() => deliver(index))
    expect(inbox.view.count).toBe(1)
    expect(told).toEqual(['table', 'box,inbox'])
    expect(uncaught).toEqual(['the first of the table', 'the first of the index'])
  })

  test('makes no lazy commit fail, which is done without a turn of the event loop', async () => {
    await using index = await openIndex(memoryFs(), 's', { create: true })
    await create(index)
    await deliver(index)
    await using inbox = (await index.open('inbox'))!
    using _watch = inbox.watch(() => {
      throw new Error('a watcher')
    })
    const uncaught = await uncaughtIn(async () => {
      for (const change of [{ add: FLAG_SEEN }, { remove: FLAG_SEEN }]) {
        const tx = index.begin()
        tx.changeFlags('inbox', UidSet.of(1), change)
        await tx.commit({ durability: 'lazy' })
      }
    })
    expect(inbox.view.flags(0)).toBe(0)
    expect(uncaught).toEqual(['a watcher', 'a watcher'])
  })

  test('makes no refresh fail that shows what others committed', async () => {
    const fs = memoryFs({ watch: false })
    await using index = await openIndex(fs, 's', { create: true })
    await create(index)
    await using other = await openIndex(fs, 's')
    using _watch = other.watch(() => {
      throw new Error('a watcher')
    })
    await deliver(index)
    expect(await uncaughtIn(() => other.refresh())).toEqual(['a watcher'])
    expect(other.info('inbox')!.count).toBe(1)
  })
})

test('what throws when it is told of an event makes nothing fail', async () => {
  const fs = memoryFs()
  {
    await using index = await openIndex(fs, 's', { create: true })
    await create(index)
    await deliver(index)
  }
  const path = 's/log/0000000000000001.log'
  const bytes = Buffer.concat([await fs.readFile(path), Buffer.from('what is torn')])
  await fs.writeFile(path, bytes)
  await fs.remove('s/control')
  const kinds: string[] = []
  const uncaught = await uncaughtIn(async () => {
    await using index = await openIndex(fs, 's', {
      onEvent: ({ kind }) => {
        kinds.push(kind)
        throw new Error(kind)
      },
    })
    await deliver(index)
    expect(index.info('inbox')!.count).toBe(2)
  })
  expect(kinds).toContain('control-damaged')
  expect(kinds).toContain('torn-tail')
  expect(uncaught).toEqual(kinds)
})
