import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { FLAG_DELETED, FLAG_SEEN } from '@mailstead/index'
import { expect, test } from 'vitest'
import { beforeDay, day, indexCases, MAILBOX, Stores, commits } from './index-cases.ts'
import { type Counters, openStore, STORE_NAMES, type StoreName } from './index-stores.ts'

async function inDirectory<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), 'mailstead-bench-'))
  try {
    return await use(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** What a store answers after the same changes; modseqs begin where each store likes. */
async function answers(name: StoreName, directory: string): Promise<readonly unknown[]> {
  const told: unknown[] = []
  const ask = async (mailbox: number, from: Counters | undefined): Promise<Counters> => {
    await using store = await openStore(name, directory)
    const view = await store.view(mailbox)
    const counters = await store.counters(mailbox)
    const { modSeq, ...others } = counters
    told.push(others, modSeq - (from?.modSeq ?? modSeq), view.count, [...view.without(FLAG_SEEN)])
    told.push(view.sum((from ?? counters).modSeq))
    return counters
  }
  {
    await using store = await openStore(name, directory)
    await store.create(0, 3)
    await store.append(1, 40)
    await store.append(2, 5)
  }
  const first = await ask(1, undefined)
  {
    await using store = await openStore(name, directory)
    await store.flag(1, 7, 7, FLAG_SEEN, true)
    await store.flag(1, 7, 7, FLAG_SEEN, true)
    await store.flag(1, 1, 40, FLAG_DELETED, true)
    await store.flag(1, 10, 20, FLAG_DELETED, false)
    told.push(await store.expunge(1, 1), await store.expunge(1, 1))
    await Promise.all([11, 12, 13].map((uid) => store.flag(1, uid, uid, FLAG_SEEN, true)))
    await store.settle()
    await store.append(1, 2)
    told.push((await store.view(1)).count)
  }
  await ask(1, first)
  await ask(2, undefined)
  await ask(0, undefined)
  return told
}

test('all stores that the index is compared with do the same work', async () => {
  const [ours, ...others] = await Promise.all(
    STORE_NAMES.map(async (name) => inDirectory(async (directory) => answers(name, directory))),
  )
  expect(ours!.slice(0, 3)).toMatchObject([{ count: 40, unseen: 27, uidNext: 41 }, 0, 40])
  expect(ours!.slice(5, 8)).toEqual([true, false, 41])
  for (const other of others) expect(other).toEqual(ours)
})

test('each row of the index does the same work on all stores', async () => {
  const sizes = { open: [200, 300], change: [300, 1500], bulk: 1500, waited: 300, commits: 4, hot: 200, mailboxes: 30 }
  const cases = indexCases(sizes)
  expect(new Set(cases.map(({ row }) => row)).size).toBe(cases.length)
  await using stores = new Stores()
  for (const one of cases) {
    expect(one.row.startsWith('index ')).toBe(true)
    const told: unknown[] = []
    for (const name of STORE_NAMES) {
      await using prepared = await one.prepare(name, stores)
      const works = [await prepared.run(0), await prepared.run(1), await prepared.run(2)]
      told.push([works.map(({ operations }) => operations), await prepared.answer()])
    }
    expect(told[1], one.row).toEqual(told[0])
    expect(told[2], one.row).toEqual(told[0])
  }
})

test('a day and commits that wait together are the same work on all stores, and none of it is for nothing', async () => {
  const told = await Promise.all(
    STORE_NAMES.map(async (name) =>
      inDirectory(async (directory) => {
        await using store = await openStore(name, directory)
        await beforeDay(store, 100)
        const before = await store.counters(MAILBOX)
        expect(await day(store, 1, 100, false)).toBe(100)
        const between = await store.counters(MAILBOX)
        expect(between.modSeq - before.modSeq).toBe(100)
        await day(store, 1, 100, true)
        await commits(store, 4, 5, 0)
        const { modSeq, ...after } = await store.counters(MAILBOX)
        return [after, modSeq - before.modSeq, (await store.view(MAILBOX)).count]
      }),
    ),
  )
  expect(told[1]).toEqual(told[0])
  expect(told[2]).toEqual(told[0])
})
