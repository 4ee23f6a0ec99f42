/** Who watches an index, or is told of events, is a guest: what it throws is its own failure, and nobody else's. */
import { memoryFs } from '@mailstead/fs/memory'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
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
