/**
 * Access lists and policies of private flags outlive the index: nobody ever sees more after a rebuild than he was given (access-world.ts).
 */
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import { openStore, rebuildStore, type Store } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { describe, expect, test } from 'vitest'
import { depth, runSeed, say } from '../support/depth.ts'
import { AccessWorld, listOf } from './access-world.ts'
import { counts, judgeHistory } from './access-judge.ts'
import { removeAll } from './support.ts'

const HISTORIES = { normal: 4, ci: 12, soak: 1_000_000 }[depth()]
const STEPS = { normal: 25, ci: 30, soak: 40 }[depth()]
const STATES = { normal: 24, ci: 40, soak: 100 }[depth()]
const tools = { openStore, rebuildStore }

test.each([
  ['mdbox', 'all'],
  ['sdbox', 'all'],
  ['mdbox', 'places'],
  ['mdbox', 'owned'],
] as const)(
  'whatever of an index in %s is lost (%s), whenever the power went before, a rebuild gives nobody more than he had',
  async (format, focus) => {
    const counted = counts()
    const first = runSeed()
    for (let seed = first; seed < first + HISTORIES; seed++) {
      const wrong = await judgeHistory(tools, format, { seed, steps: STEPS, states: STATES, counted, focus })
      expect(wrong).toEqual([])
    }
    say(`access after rebuilds, ${format}, ${focus}, seed ${first}: ${counted.told()}`)
    expect(counted.of('rebuilds')).toBeGreaterThan(HISTORIES * 10)
  },
)

const ROOT = { name: 'root', unrestricted: true }
const BOB = { name: 'bob' }

test('what only the owner sees gets back what first came there, wherever it went', async () => {
  for (const focus of ['owned', 'all'] as const) {
    const world = new AccessWorld(tools, 'mdbox', focus)
    const fs = memoryFs()
    {
      await using store = await world.open(fs, true)
      const root = store.as(ROOT)
      await root.create('Archive')
      await root.changeAcl('INBOX', () => listOf('user=bob lr'))
      await save(store, 'Archive')
      await save(store, 'INBOX')
      await using archive = await root.open('Archive')
      await archive.copy(UidSet.of(1), 'INBOX')
      await using inbox = await root.open('INBOX')
      await inbox.move(UidSet.of(1), 'Archive')
    }
    await removeAll(fs, 'index')
    await world.rebuild(fs)
    await using store = await world.open(fs)
    // What came to INBOX may be in the archive by now, where it was moved: it is closed.
    expect(store.as(ROOT).mailbox('INBOX')?.count).toBe(0)
    expect(store.as(ROOT).isClosed('Recovered/INBOX')).toBe(true)
    expect(store.as(ROOT).mailbox('Archive')?.count).toBe(focus === 'owned' ? 1 : 0)
    expect(store.as(ROOT).mailbox('Recovered/Archive')?.count).toBe(focus === 'owned' ? undefined : 1)
    expect(store.as(BOB).mailbox('Recovered/INBOX')).toBeUndefined()
  }
})

describe('a namespace whose index is gone', () => {
  test('that never had a list is open to whom it was open', async () => {
    const world = new AccessWorld(tools, 'mdbox')
    const fs = memoryFs()
    {
      await using store = await world.open(fs, true)
      await store.as(ROOT).create('News')
      await save(store, 'News')
      await using news = await store.as(ROOT).open('News')
      await store.as(ROOT).create('Old')
      await news.move(UidSet.of(1), 'Old')
      await save(store, 'News')
    }
    await removeAll(fs, 'index')
    const records = await world.rebuild(fs)
    expect(records.filter(({ field }) => field === 'access')).toEqual([])
    await using store = await world.open(fs)
    expect(store.as(BOB).mailbox('News')?.count).toBe(2)
    expect(store.as(BOB).mailbox('Old')?.count).toBe(0)
  })

  test('without a ledger is closed, until somebody says who may see it', async () => {
    const world = new AccessWorld(tools, 'mdbox')
    const fs = memoryFs()
    {
      await using store = await world.open(fs, true)
      await store.as(ROOT).create('News')
      await save(store, 'News')
    }
    await removeAll(fs, 'index')
    await fs.remove('ledger')
    const records = await world.rebuild(fs)
    const closed = records.filter(({ field, new: now }) => field === 'access' && now === 'closed')
    expect(closed.map(({ mailbox }) => mailbox)).toEqual(expect.arrayContaining(['INBOX', 'News', undefined]))
    expect((await world.rebuild(fs)).filter(({ kind }) => kind === 'changed')).toEqual([])
    {
      await using store = await world.open(fs)
      expect(store.as(BOB).mailbox('News')).toBeUndefined()
      expect(store.as(ROOT).isClosed('News')).toBe(true)
      // To those who have it where nothing is said.
      await store.as(ROOT).changeAcl('News', () => undefined)
      expect(store.as(ROOT).isClosed('News')).toBe(false)
      expect(store.as(BOB).mailbox('News')).toBeUndefined()
      await store.as(ROOT).changeAcl('', () => undefined)
      expect(store.as(BOB).mailbox('News')?.count).toBe(1)
      expect(store.as(BOB).mailbox('INBOX')).toBeUndefined()
      await store.as(ROOT).changeAcl('INBOX', () => listOf('user=bob lr'))
      expect(store.as(BOB).mailbox('INBOX')?.count).toBe(0)
    }
    // And stays so when the index is lost again. Now there are lists that differ, and no ledger ever told where messages went.
    await removeAll(fs, 'index')
    await world.rebuild(fs)
    await using store = await world.open(fs)
    expect(store.as(BOB).mailbox('News')?.count).toBe(0)
    expect(store.as(BOB).mailbox('INBOX')?.count).toBe(0)
    expect(store.as(BOB).mailbox('Recovered/News')).toBeUndefined()
    expect(store.as(ROOT).mailbox('Recovered/News')?.count).toBe(1)
  })

  test('has its empty mailboxes again, with their lists, though it never had a message', async () => {
    const world = new AccessWorld(tools, 'mdbox')
    const fs = memoryFs()
    {
      await using store = await world.open(fs, true)
      await store.as(ROOT).create('Board/Minutes')
      await store.as(ROOT).changeAcl('Board/Minutes', () => listOf('anyone\nuser=carol lr'))
    }
    await removeAll(fs, 'index')
    await expect(world.open(fs, true)).rejects.toMatchObject({ code: 'STORE_CORRUPT' })
    await world.rebuild(fs)
    await using store = await world.open(fs)
    expect(store.as(BOB).mailbox('Board/Minutes')).toBeUndefined()
    expect(store.as({ name: 'carol' }).mailbox('Board/Minutes')?.count).toBe(0)
    expect(store.as(BOB).mailbox('Board')?.count).toBe(0)
  })

  test('shows a message that was moved where fewer see it to no more', async () => {
    const world = new AccessWorld(tools, 'mdbox')
    const fs = memoryFs()
    {
      await using store = await world.open(fs, true)
      const root = store.as(ROOT)
      await root.create('News')
      await root.create('Open')
      await root.create('Board')
      await root.changeAcl('Board', () => listOf('anyone\nuser=carol lr'))
      await save(store, 'News')
      await save(store, 'Open')
      await using news = await root.open('News')
      await news.move(UidSet.of(1), 'Board')
    }
    await removeAll(fs, 'index')
    await world.rebuild(fs)
    await using store = await world.open(fs)
    expect(store.as(BOB).mailbox('News')?.count).toBe(0)
    expect(store.as(BOB).mailbox('Open')?.count).toBe(1)
    expect(store.as(BOB).mailbox('Recovered/News')).toBeUndefined()
    expect(store.as(ROOT).mailbox('Recovered/News')?.count).toBe(1)
  })

  test('whose index is put back as it was before a list was closed is closed as it was last', async () => {
    const world = new AccessWorld(tools, 'mdbox')
    const fs = memoryFs()
    {
      await using store = await world.open(fs, true)
      await store.as(ROOT).create('Board')
    }
    const before = await indexOf(fs)
    {
      await using store = await world.open(fs)
      await store.as(ROOT).changeAcl('Board', () => listOf('anyone\nuser=carol lr'))
    }
    await removeAll(fs, 'index')
    for (const [path, bytes] of before) await fs.writeFile(path, bytes)
    await using store = await world.open(fs)
    expect(store.as(BOB).mailbox('Board')).toBeUndefined()
    expect(store.as({ name: 'carol' }).mailbox('Board')?.count).toBe(0)
  })

  test('whose index is put back as it was before a mailbox came gives no UIDVALIDITY again, though the clock stands', async () => {
    const fs = memoryFs()
    const open = (): Promise<Store> =>
      openStore({
        owner: 'team',
        fs,
        box: (root) => mdbox(root, 'storage'),
        create: true,
        now: () => 1_800_000_000_000,
      })
    await (await open())[Symbol.asyncDispose]()
    const before = await indexOf(fs)
    let given = 0
    {
      await using store = await open()
      for (const name of ['One', 'Two']) given = (await store.as(ROOT).create(name)).uidValidity
    }
    await removeAll(fs, 'index')
    for (const [path, bytes] of before) await fs.writeFile(path, bytes)
    await using store = await open()
    expect((await store.as(ROOT).create('One')).uidValidity).toBeGreaterThan(given)
  })
})

/** The files of the index, by their paths. */
async function indexOf(fs: Fs): Promise<ReadonlyMap<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>()
  for (const directory of ['', '/log', '/tables'])
    for await (const page of fs.list(`index${directory}`))
      for (const { name, kind } of page)
        if (kind === 'file') files.set(`index${directory}/${name}`, await fs.readFile(`index${directory}/${name}`))
  return files
}

async function save(store: Awaited<ReturnType<AccessWorld['open']>>, mailbox: string): Promise<void> {
  await using batch = store.as(ROOT).save()
  await batch.add(Buffer.from('Subject: hi\r\n\r\nhi'), [{ mailbox }])
  await batch.commit()
}
