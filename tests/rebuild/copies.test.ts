/**
 * Bytes of a message may lie in several places: where a purge or an altmove copied it from, or where it would have been copied to if
 * the power had not gone. Messages of one GUID may be several. What was expunged stays so all the same when the index is
 * lost, what was not is there, and no bytes are left for ever.
 */
import { createHash } from 'node:crypto'
import type { BoxFormat } from '@mailstead/box'
import type { Fs } from '@mailstead/fs'
import { type CrashableFs, crashableFs, type CrashState } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import type { ImportMessage, Store } from '@mailstead/store'
import { UidSet } from '@mailstead/uidset'
import { expect, test } from 'vitest'
import { depth, runSeed, say, seeded } from '../support/depth.ts'
import { deliver, expunge, openTest, OWNER, picture, rebuild, removeAll, useFormat } from './support.ts'

const HISTORIES = { normal: 1, ci: 3, soak: 100_000 }[depth()]
const STATES = { normal: 8, ci: 40, soak: 300 }[depth()]

/** With a second tier on the same disk. */
const box = (root: Fs): BoxFormat =>
  mdbox(root, 'storage', {
    rotateBytes: 1_500,
    purgeShare: 0.1,
    alt: { fs: { ...root, [Symbol.asyncDispose]: () => Promise.resolve() }, path: 'second' },
  })
const open = (fs: Fs, create = false): Promise<Store> => openTest(fs, { create, box })

async function texts(store: Store): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>()
  const session = store.as(OWNER)
  for (const { name } of session.mailboxes()) {
    await using mailbox = await session.open(name)
    const list: string[] = []
    for (let row = 0; row < mailbox.view.count; row++) {
      await using body = await mailbox.body(mailbox.view, row)
      list.push(
        Buffer.concat(await Array.fromAsync(body.stream(0, body.size)))
          .toString()
          .split('\r\n\r\n')[1]!,
      )
    }
    found.set(name, list)
  }
  return found
}

async function messageFiles(fs: Fs): Promise<string[]> {
  const files: string[] = []
  for (const directory of ['storage', 'second'])
    for await (const page of fs.list(directory))
      for (const { name } of page) if (name.startsWith('m.')) files.push(`${directory}/${name}`)
  return files
}

async function expungeAll(store: Store): Promise<void> {
  const session = store.as(OWNER)
  for (const { name } of session.mailboxes()) {
    await using mailbox = await session.open(name)
    const uids = Array.from({ length: mailbox.view.count }, (_, row) => mailbox.view.uid(row))
    await mailbox.expunge(UidSet.of(...uids), { force: true })
  }
}

async function expectAfterLoss(fs: Fs, expected: Readonly<Record<string, readonly string[]>>): Promise<void> {
  await removeAll(fs, 'index')
  await rebuild(fs, { box })
  await using store = await open(fs)
  const found = await texts(store)
  for (const [name, list] of Object.entries(expected)) expect(found.get(name)?.toSorted() ?? [], name).toEqual(list)
}

test.each(['alt', 'primary'] as const)(
  'what was moved (last to: %s) and then expunged and purged stays so',
  async (to) => {
    useFormat('mdbox')
    const fs = memoryFs()
    const left = Array.from({ length: 9 }, (_, n) => `message ${n + 2}`).toSorted()
    {
      await using store = await openTest(fs, {
        box: (root) =>
          mdbox(root, 'storage', {
            alt: { fs: { ...root, [Symbol.asyncDispose]: () => Promise.resolve() }, path: 'second' },
          }),
      })
      for (let n = 1; n <= 10; n++) await deliver(store, 'INBOX', `message ${n}`)
      const first = { where: ({ uid }: { readonly uid: number }) => uid === 1 }
      expect((await store.altmove({ to: 'alt', ...first })).messages).toBe(1)
      if (to === 'primary') expect((await store.altmove({ to, ...first })).messages).toBe(1)
      await expunge(store, 'INBOX', [1])
      await store.purge()
      await store.purge()
    }
    await expectAfterLoss(fs, { INBOX: left })
  },
)

test('a message whose file is lost is brought back from the bytes that it left behind, where the index is whole', async () => {
  useFormat('mdbox', true)
  const fs = memoryFs()
  {
    await using store = await openTest(fs)
    for (const text of ['message 1', `message 2 ${'x'.repeat(500)}`]) await deliver(store, 'INBOX', text)
    await store.checkpoint()
    await store.altmove({ to: 'alt', where: ({ uid }) => uid === 1 })
  }
  const before = await picture(fs)
  await removeAll(fs, 'alternate/m.17')
  expect((await picture(fs)).get('INBOX')!.rows[0]!.text).toBe('STORE_DAMAGED')
  const records = await rebuild(fs)
  expect(records.filter(({ kind }) => kind === 'changed')).toMatchObject([{ field: 'place', mailbox: 'INBOX', uid: 1 }])
  expect(await picture(fs)).toEqual(before)
})

const guidOf = (text: string): Buffer => createHash('md5').update(text).digest()
function imported(uid: number, text: string): ImportMessage {
  return {
    uid,
    flags: 0,
    keywords: [],
    modSeq: undefined,
    guid: guidOf(text),
    receivedMs: 1_600_000_000_000 + uid,
    savedMs: undefined,
    pop3Uidl: undefined,
    pop3Order: undefined,
    shared: undefined,
    open: async function* () {
      yield Buffer.from(`Subject: ${text}\r\n\r\n${text}`)
    },
  }
}

test.each([true, false])(
  'of two messages of one GUID one is expunged, and the other stays; purged: %s',
  async (purged) => {
    useFormat('mdbox')
    const fs = memoryFs()
    {
      await using store = await open(fs, true)
      const importer = store.as(OWNER).importer()
      let n = 0
      for (const [name, messages] of [
        ['INBOX', [imported(1, 'a')]],
        ['Archive', [imported(1, 'a'), imported(2, 'b')]],
        // Equal in all that is stored with them.
        ['Twice', [imported(1, 'c'), { ...imported(2, 'c'), receivedMs: 1_600_000_000_001 }]],
      ] as const)
        await importer.mailbox(
          { name, guid: guidOf(name), uidValidity: ++n, uidNext: 3, highestModSeq: 9 },
          async function* () {
            yield messages
          },
        )
      await expunge(store, 'INBOX', [1])
      await expunge(store, 'Twice', [1])
      if (purged) await store.purge()
    }
    await expectAfterLoss(fs, { INBOX: [], Archive: ['a', 'b'], Twice: ['c'] })
  },
)

/** Works on a store. Resolves to the time from which on its second tier is in use. */
async function work(disk: CrashableFs, seed: number): Promise<number> {
  const random = seeded(seed)
  await using store = await open(disk, true)
  await deliver(store, 'INBOX', 'message 0')
  await store.altmove({ to: 'alt', where: () => true })
  const { tick } = disk
  const session = store.as(OWNER)
  const alive = new Map<string, number>()
  for (let n = 1; n < 14; n++) {
    const text = `message ${n} ${'x'.repeat(Math.floor(random() * 400))}`
    alive.set(text, await deliver(store, 'INBOX', text))
    if (n % 3 === 2) await store.altmove({ to: random() < 0.6 ? 'alt' : 'primary', where: () => random() < 0.4 })
    if (n % 4 === 3) {
      await using inbox = await session.open('INBOX')
      const chosen = [...alive].filter(() => random() < 0.3)
      await inbox.expunge(UidSet.of(...chosen.map(([, uid]) => uid)), { force: true })
      for (const [one] of chosen) alive.delete(one)
    }
    if (n % 5 === 4) await store.purge()
    if (n % 7 === 6) await store.checkpoint()
  }
  return tick
}

function* some(disk: CrashableFs, from: number, seed: number): Generator<CrashState> {
  const random = seeded(seed)
  for (let n = 0; n < STATES; n++) {
    const tick = from + Math.floor(((disk.tick - from) * (n + random())) / STATES)
    yield* disk.states({ seed: seed + n, maxStates: 2 }, tick)
  }
}

test('whenever the power goes amid purges and altmoves, what is expunged later stays so, and all of its bytes are given back', async () => {
  useFormat('mdbox')
  const first = runSeed()
  let states = 0
  let left = 0
  for (let n = 0; n < HISTORIES; n++) {
    const seed = first + n
    const disk = crashableFs()
    const from = await work(disk, seed)
    for (const state of some(disk, from, seed)) {
      const where = `MAILSTEAD_SEED=${seed}: ${state.description}`
      const fs = state.open()
      let before: string[]
      {
        await using store = await open(fs)
        before = (await texts(store)).get('INBOX')!
      }
      states++
      // Half of it goes, and its bytes; the index after it.
      const half = before.filter((_, i) => i % 2 === 0)
      {
        await using store = await open(fs)
        const session = store.as(OWNER)
        await using inbox = await session.open('INBOX')
        const uids = before.flatMap((text, row) => (half.includes(text) ? [] : [inbox.view.uid(row)]))
        await inbox.expunge(UidSet.of(...uids), { force: true })
        await deliver(store, 'INBOX', 'later')
        if (states % 2 === 0) await store.purge()
      }
      const whole = state.open({})
      await removeAll(fs, 'index')
      await rebuild(fs, { box })
      {
        await using store = await open(fs)
        const found = [...(await texts(store)).values()].flat().toSorted()
        expect(found, where).toEqual([...half, 'later'].toSorted())
        await expungeAll(store)
        await store.purge()
        await store.purge()
      }
      expect(await messageFiles(fs), `rebuilt, ${where}`).toEqual([])
      // And where the index is whole.
      {
        await using store = await open(whole)
        await expungeAll(store)
        await store.purge()
      }
      {
        await using store = await open(whole)
        await store.purge()
      }
      const files = await messageFiles(whole)
      if (files.length > 0) left++
      expect(files, where).toEqual([])
    }
  }
  say(`power lost ${states} times amid purges and altmoves, seed ${first}; nothing came back, ${left} with bytes left`)
  expect(states).toBeGreaterThan(10)
})
