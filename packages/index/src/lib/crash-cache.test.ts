import { type CrashState, crashableFs } from '@mailstead/fs/faults'
import { expect, test } from 'vitest'
import type { Index } from './contract.ts'
import { openIndex } from './open-index.ts'
import { createBoxAndInbox } from '../../test/schema.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const statesEach = depth === 'soak' ? 500 : depth === 'ci' ? 24 : 2
const ROWS = 12
/** Long, so that a few of them are a file worth compacting. */
const LENGTH = 20_000
const WRITES = 5

const valueOf = (uid: number, write: number): Buffer => Buffer.alloc(LENGTH, `${uid}.${write} `)
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('whatever a power cut leaves of a cache, nothing wrong is read from it, and the rows beside it are there', async () => {
  let compacted = false
  const disk = crashableFs({
    onChange: (now) => {
      compacted ||= now.volatile().some((what) => what.startsWith('rename store/cache/'))
    },
  })
  await using index = await openIndex(disk, 'store', { create: true })
  {
    await using tx = index.begin()
    createBoxAndInbox(tx)
    for (let n = 1; n <= ROWS; n++) tx.append('inbox', { columns: { guid: Buffer.alloc(16).fill(n) } })
    await tx.commit()
  }
  const begun = disk.tick
  {
    await using inbox = (await index.open('inbox'))!
    for (let write = 0; write < WRITES; write++) {
      inbox.cacheWrite(
        Array.from({ length: ROWS }, (_, row) => {
          const fields = [['a', valueOf(row + 1, write)]] as const
          return { uid: row + 1, guid: Buffer.alloc(16).fill(row + 1), fields }
        }),
      )
      for (let n = 0; n < 30; n++) {
        await turn()
        inbox.view.cache('a').value(n % ROWS)
      }
    }
  }
  expect(compacted).toBe(true)
  let looked = 0
  let served = 0
  const named = new Map<string, number>()
  const look = async (state: CrashState): Promise<void> => {
    looked++
    await using fs = state.open()
    const after: Index = await openIndex(fs, 'store')
    await using inbox = (await after.open('inbox'))!
    const { view } = inbox
    expect(view.count, state.description).toBe(ROWS)
    const cached = view.cache('a')
    for (let row = 0; row < ROWS; row++) {
      const value = cached.value(row)
      if (value === undefined) continue
      served++
      const written = Array.from({ length: WRITES }, (_, write) => valueOf(row + 1, write))
      expect(
        written.some((one) => one.equals(value)),
        `${state.description}: row ${row}`,
      ).toBe(true)
    }
    // It goes on: what somebody asked for is kept when it is given again.
    const again = valueOf(1, 0)
    const isKept = (): boolean => Buffer.compare(view.cache('a').value(0) ?? Buffer.alloc(0), again) === 0
    for (let n = 0; n < 30 && !isKept(); n++) {
      inbox.cacheWrite([{ uid: 1, guid: Buffer.alloc(16).fill(1), fields: [['a', again]] }])
      await turn()
    }
    expect(isKept(), `${state.description}: it is filled again`).toBe(true)
    await after[Symbol.asyncDispose]()
    await using later = await openIndex(fs, 'store')
    const damage: unknown[] = []
    for await (const page of later.check())
      for (const one of page) {
        // What was never flushed may be old bytes: `check` names those in a cache, which nobody else misses.
        if (one.file.startsWith('store/cache/'))
          named.set(`${one.severity} ${one.kind}`, (named.get(`${one.severity} ${one.kind}`) ?? 0) + 1)
        else if (one.severity === 'damage') damage.push(one)
      }
    expect(damage, state.description).toEqual([])
  }
  for (let tick = begun + 1; tick <= disk.tick; tick++)
    for (const state of disk.states({ maxStates: statesEach }, tick)) await look(state)
  expect(served).toBeGreaterThan(0)
  console.log(
    `crash states of a cache: ${looked}, in which ${served} values were still there; check names ${[...named].map(([kind, n]) => `${kind} ${n}`).join(', ')}`,
  )
})
