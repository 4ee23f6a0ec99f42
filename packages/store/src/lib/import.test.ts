import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { BoxError } from '@mailstead/box'
import { parseHex, toHex } from '@mailstead/bytes'
import type { Fs } from '@mailstead/fs'
import { crashableFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import { FLAG_FLAGGED, FLAG_SEEN, openIndex } from '@mailstead/index'
import { UidSet } from '@mailstead/uidset'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { anna, bytesOf, damage, findings, mail, open, save } from '../../test/support.ts'
import type { Store } from './contract.ts'
import type { ImportFault, ImportMailbox, ImportMessage, ImportOptions, ImportOutcome } from './import-contract.ts'
import { decodePop3, encodePop3 } from './import-pop3.ts'
import { SharedMessages } from './shared-messages.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 10_000 : depth === 'ci' ? 40 : 4
/** Disks of each run that are opened. */
const DISKS = depth === 'soak' ? 1000 : depth === 'ci' ? 100 : 20

interface Source {
  readonly spec: ImportMailbox
  readonly messages: readonly ImportMessage[]
}

function guidOf(text: string): Uint8Array {
  return createHash('md5').update(text).digest()
}

function message(uid: number, text: string, more: Partial<ImportMessage> = {}): ImportMessage {
  return {
    uid,
    flags: 0,
    keywords: [],
    modSeq: undefined,
    guid: guidOf(text),
    receivedMs: 1_600_000_000_000 + uid,
    savedMs: 1_650_000_000_000 + uid,
    pop3Uidl: undefined,
    pop3Order: undefined,
    shared: undefined,
    open: async function* () {
      await Promise.resolve()
      yield mail(text)
    },
    ...more,
  }
}

function source(name: string, messages: readonly ImportMessage[], spec: Partial<ImportMailbox> = {}): Source {
  return {
    spec: { name, guid: guidOf(`mailbox ${name}`), uidValidity: 7, uidNext: 1000, highestModSeq: 90, ...spec },
    messages,
  }
}

async function* paged(messages: readonly ImportMessage[]): AsyncGenerator<readonly ImportMessage[]> {
  for (let at = 0; at < messages.length; at += 3) {
    await Promise.resolve()
    yield messages.slice(at, at + 3)
  }
}

async function take(
  store: Store,
  sources: readonly Source[],
  options: ImportOptions = { batchMessages: 4 },
): Promise<ImportOutcome[]> {
  const importing = store.as(anna).importer(options)
  const outcomes: ImportOutcome[] = []
  for (const { spec, messages } of sources) outcomes.push(await importing.mailbox(spec, () => paged(messages)))
  return outcomes
}

/** Everything a client may see of a mailbox. */
async function shown(store: Store, name: string): Promise<unknown> {
  const info = store.as(anna).mailbox(name)
  if (info === undefined) return undefined
  await using mailbox = await store.as(anna).open(name)
  const { view } = mailbox
  const rows: unknown[] = []
  for (let row = 0; row < view.count; row++)
    rows.push([
      view.uid(row),
      view.flags(row),
      view.modSeq(row),
      view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]!).toSorted(),
      Buffer.from(view.extension('guid')!.value(row)).toString('hex'),
      view.extension('received')!.number(row),
      view.extension('saved')!.number(row),
      await bytesOf(mailbox, row),
    ])
  const { guid, uidValidity, uidNext, highestModSeq, specialUse } = info
  return { guid, uidValidity, uidNext, highestModSeq, specialUse, rows }
}

/** What it should be. */
async function expected({ spec, messages }: Source): Promise<unknown> {
  const rows: unknown[] = []
  const unknown = spec.highestModSeq === undefined ? 1 : spec.highestModSeq + 1
  for (const each of messages)
    rows.push([
      each.uid,
      each.flags,
      each.modSeq ?? unknown,
      each.keywords.toSorted(),
      Buffer.from(each.guid!).toString('hex'),
      each.receivedMs,
      each.savedMs,
      Buffer.concat(await Array.fromAsync(each.open())).toString('latin1'),
    ])
  return {
    guid: Buffer.from(spec.guid).toString('hex'),
    uidValidity: spec.uidValidity,
    uidNext: Math.max(spec.uidNext ?? 1, (messages.at(-1)?.uid ?? 0) + 1),
    highestModSeq: Math.max(spec.highestModSeq ?? 1, ...messages.map(({ modSeq }) => modSeq ?? unknown)),
    specialUse: spec.specialUse,
    rows,
  }
}

describe('an import', () => {
  test('keeps everything that clients know', async () => {
    await using store = await open(memoryFs())
    const inbox = source('INBOX', [
      message(3, 'three', { flags: FLAG_SEEN, keywords: ['$Forwarded', 'Ä'], modSeq: 20, shared: '1' }),
      message(9, 'nine', { modSeq: 12, pop3Uidl: 'old-9', pop3Order: 2 }),
      message(10, 'ten', { pop3Uidl: 'old-10' }),
    ])
    const sent = source('Sent', [message(1, 'three', { shared: '1', flags: FLAG_FLAGGED })], {
      specialUse: '\\Sent',
      uidValidity: 8,
    })
    const outcomes = await take(store, [inbox, sent])
    expect(outcomes).toMatchObject([
      { outcome: 'imported', added: 3, copies: 0, present: 0, left: 0 },
      { outcome: 'imported', added: 1, copies: 1, bytes: 0 },
    ])
    for (const each of [inbox, sent]) expect(await shown(store, each.spec.name)).toEqual(await expected(each))
    await using mailbox = await store.as(anna).open('INBOX')
    expect([...decodePop3(mailbox.view.values).values()]).toEqual([
      { uid: 9, uidl: 'old-9', order: 2 },
      { uid: 10, uidl: 'old-10', order: undefined },
    ])
    // What was expunged before is not known: a client that asks is told of all that is not there.
    expect(mailbox.table.expungedSince(89)).toBeUndefined()
    expect(mailbox.table.expungedSince(90)?.isEmpty).toBe(true)
    expect(await findings(store)).toEqual([])
  })

  test('run again finds everything done, and what came since', async () => {
    await using store = await open(memoryFs())
    const first = source('INBOX', [message(1, 'a', { shared: 's' }), message(2, 'b')], { uidNext: 3 })
    await take(store, [first])
    const before = await shown(store, 'INBOX')
    expect(await take(store, [first])).toMatchObject([{ outcome: 'unchanged', added: 0, present: 2 }])
    expect(await shown(store, 'INBOX')).toEqual(before)
    await using mailbox = await store.as(anna).open('INBOX')
    await mailbox.changeFlags(UidSet.of(1), { add: FLAG_SEEN })
    await mailbox.expunge(UidSet.of(2), { force: true })
    const later = source('INBOX', [...first.messages, message(5, 'a', { shared: 's' })], { uidNext: 8 })
    expect(await take(store, [later])).toMatchObject([{ outcome: 'continued', added: 1, copies: 1, present: 1 }])
    expect(mailbox.view.count).toBe(2)
    expect([mailbox.view.uid(0), mailbox.view.flags(0), mailbox.view.uid(1)]).toEqual([1, FLAG_SEEN, 5])
    // Clients that are there learn of it.
    expect(mailbox.view.modSeq(1)).toBe(mailbox.view.highestModSeq)
    expect(mailbox.view.uidNext).toBe(8)
    expect(await damage(store)).toEqual([])
  })

  test('refuses a name that holds other mail, and takes the place of what never held any', async () => {
    await using store = await open(memoryFs())
    await store.as(anna).create('Sent', { specialUse: '\\Sent' })
    await save(store, 'INBOX', mail('here'))
    const before = await shown(store, 'INBOX')
    const outcomes = await take(store, [
      source('INBOX', [message(1, 'there')]),
      source('Sent', [message(1, 'there')], { specialUse: '\\Sent', uidValidity: 9 }),
    ])
    expect(outcomes).toMatchObject([{ outcome: 'refused', added: 0 }, { outcome: 'imported' }])
    expect(await shown(store, 'INBOX')).toEqual(before)
    expect(await shown(store, 'Sent')).toMatchObject({ uidValidity: 9, specialUse: '\\Sent' })
    expect(await damage(store)).toEqual([])
  })

  test('refuses to mix what came here and there, and another UIDVALIDITY', async () => {
    await using store = await open(memoryFs())
    await take(store, [source('INBOX', [message(1, 'a')], { uidNext: 2 })])
    await save(store, 'INBOX', mail('here'))
    const before = await shown(store, 'INBOX')
    const there = source('INBOX', [message(1, 'a'), message(2, 'there')], { uidNext: 3 })
    expect(await take(store, [there])).toMatchObject([{ outcome: 'refused', added: 0 }])
    const other = source('INBOX', [message(1, 'a')], { uidValidity: 8 })
    expect(await take(store, [other])).toMatchObject([{ outcome: 'refused' }])
    expect(await shown(store, 'INBOX')).toEqual(before)
  })

  test('leaves out what cannot be read, and adds it once it can', async () => {
    await using store = await open(memoryFs())
    let broken = true
    const flaky = message(2, 'two', {
      open: async function* () {
        await Promise.resolve()
        yield mail('two').subarray(0, 5)
        if (broken) throw new BoxError('BOX_DAMAGED', 'm.1: is cut', { file: 'm.1', offset: 7 })
        yield mail('two').subarray(5)
      },
    })
    const large = message(3, 'x', {
      open: async function* () {
        await Promise.resolve()
        for (let i = 0; i < 70; i++) yield Buffer.alloc(1024 * 1024)
      },
    })
    const inbox = source('INBOX', [message(1, 'one'), flaky, large, message(4, 'four')], { uidNext: 5 })
    const faults: ImportFault[] = []
    const onFault = (fault: ImportFault): void => void faults.push(fault)
    expect(await take(store, [inbox], { onFault })).toMatchObject([{ outcome: 'imported', added: 2, left: 2 }])
    expect(faults).toMatchObject([
      { kind: 'unreadable', mailbox: 'INBOX', uid: 2, message: 'm.1: is cut', cause: { file: 'm.1', offset: 7 } },
      { kind: 'too-large', uid: 3 },
    ])
    broken = false
    expect(await take(store, [inbox])).toMatchObject([{ outcome: 'continued', added: 1, present: 2, left: 1 }])
    await using mailbox = await store.as(anna).open('INBOX')
    expect(Array.from({ length: 3 }, (_, row) => mailbox.view.uid(row))).toEqual([1, 4, 5])
    expect(await bytesOf(mailbox, 2)).toBe(mail('two').toString())
    expect(await take(store, [inbox])).toMatchObject([{ outcome: 'unchanged', left: 1 }])
    expect(await damage(store)).toEqual([])
  })

  test('adds what was not shown the first time, and nothing that was expunged here', async () => {
    await using store = await open(memoryFs())
    const all = [1, 2, 3, 4, 5].map((uid) => message(uid, `${uid}`))
    await take(store, [source('INBOX', [all[0]!, all[3]!, all[4]!], { uidNext: 6 })])
    await using mailbox = await store.as(anna).open('INBOX')
    await mailbox.expunge(UidSet.of(4), { force: true })
    const whole = source('INBOX', all, { uidNext: 6 })
    expect(await take(store, [whole])).toMatchObject([{ outcome: 'continued', added: 2, present: 2 }])
    expect(Array.from({ length: 4 }, (_, row) => mailbox.view.uid(row))).toEqual([1, 5, 6, 7])
    expect(await bytesOf(mailbox, 3)).toBe(mail('3').toString())
    expect(await take(store, [whole])).toMatchObject([{ outcome: 'unchanged', added: 0, present: 2 }])
    expect(await damage(store)).toEqual([])
  })

  test('refuses a new message whose UID another one had here, wherever that is now', async () => {
    for (const gone of ['expunged', 'moved'] as const) {
      await using store = await open(memoryFs())
      await take(store, [source('INBOX', [message(1, 'a')], { uidNext: 2 })])
      expect(await save(store, 'INBOX', mail('here'))).toEqual([2])
      await store.as(anna).create('Archive')
      await using mailbox = await store.as(anna).open('INBOX')
      if (gone === 'moved') await mailbox.move(UidSet.of(2), 'Archive')
      else await mailbox.expunge(UidSet.of(2), { force: true })
      const before = await shown(store, 'INBOX')
      const there = source('INBOX', [message(1, 'a'), message(2, 'there'), message(3, 'too')], { uidNext: 4 })
      expect(await take(store, [there])).toMatchObject([{ outcome: 'refused', added: 0 }])
      expect(await shown(store, 'INBOX')).toEqual(before)
      // Nobody says of this one that it is the message that was here.
      await save(store, 'INBOX', mail('again'))
      const nameless = source('INBOX', [message(1, 'a'), message(3, 'too', { guid: undefined })], { uidNext: 4 })
      expect(await take(store, [nameless])).toMatchObject([{ outcome: 'refused', added: 0 }])
    }
  })

  test('knows what a second one has brought, though it was interrupted and mail came here since', async () => {
    await using store = await open(memoryFs())
    await take(store, [source('INBOX', [message(1, 'a')], { uidNext: 2 })])
    const later = source(
      'INBOX',
      [1, 2, 3, 4].map((uid) => message(uid, uid === 1 ? 'a' : `${uid}`)),
      { uidNext: 5 },
    )
    const stop = new AbortController()
    await expect(
      take(store, [later], { batchMessages: 2, onProgress: () => stop.abort(), signal: stop.signal }),
    ).rejects.toMatchObject({ name: 'AbortError' })
    await using mailbox = await store.as(anna).open('INBOX')
    await mailbox.expunge(UidSet.of(2), { force: true })
    expect(await take(store, [later])).toMatchObject([{ outcome: 'continued', added: 1, present: 2 }])
    expect(Array.from({ length: 3 }, (_, row) => mailbox.view.uid(row))).toEqual([1, 3, 4])
    await save(store, 'INBOX', mail('here'))
    await mailbox.expunge(UidSet.of(4), { force: true })
    expect(await take(store, [later])).toMatchObject([{ outcome: 'unchanged', present: 2, left: 0 }])
  })

  test('says which messages may have been expunged here, where nothing tells', async () => {
    const fs = memoryFs()
    const all = [1, 2, 3].map((uid) => message(uid, `${uid}`))
    const inbox = source('INBOX', all, { uidNext: 4 })
    {
      await using store = await open(fs)
      await take(store, [inbox])
      await using mailbox = await store.as(anna).open('INBOX')
      await mailbox.expunge(UidSet.of(2), { force: true })
    }
    {
      // As an import was before the store noted whose UIDs are whose.
      await using index = await openIndex(fs, 'index')
      await using tx = index.begin()
      tx.setValue(`mailbox-${Buffer.from(inbox.spec.guid).toString('hex')}`, 'import/given', undefined)
      await tx.commit()
    }
    await using store = await open(fs)
    const faults: ImportFault[] = []
    const onFault = (fault: ImportFault): void => void faults.push(fault)
    expect(await take(store, [inbox], { onFault })).toMatchObject([{ outcome: 'unchanged', added: 0, present: 2 }])
    expect(faults).toMatchObject([{ kind: 'unknown', mailbox: 'INBOX', uid: undefined }])
    expect(faults[0]!.message).toContain('UID 2 ')
  })

  test('that was interrupted is seen by nobody, and goes on or is given up', async () => {
    await using store = await open(memoryFs())
    const inbox = source(
      'INBOX',
      [1, 2, 3, 4, 5, 6].map((uid) => message(uid, `${uid}`)),
    )
    const stop = new AbortController()
    const onProgress = (): void => stop.abort(new Error('stopped'))
    await expect(take(store, [inbox], { batchMessages: 2, onProgress, signal: stop.signal })).rejects.toThrow('stopped')
    expect(store.as(anna).mailbox('INBOX')).toMatchObject({ count: 0 })
    const importing = store.as(anna).importer()
    expect(importing.unfinished()).toMatchObject([{ name: 'INBOX', count: 2 }])
    expect(await findings(store)).toMatchObject([{ severity: 'note', kind: 'import-unfinished' }])
    await importing.discard(importing.unfinished()[0]!.guid)
    expect(importing.unfinished()).toEqual([])
    expect(await findings(store)).toEqual([])
    const again = new AbortController()
    await expect(
      take(store, [inbox], { batchMessages: 2, onProgress: () => again.abort(), signal: again.signal }),
    ).rejects.toMatchObject({ name: 'AbortError' })
    expect(await take(store, [inbox])).toMatchObject([{ outcome: 'imported', added: 4, present: 2 }])
    expect(await shown(store, 'INBOX')).toEqual(await expected(inbox))
  })

  test('begins anew if the mailbox changed since it was interrupted', async () => {
    const uids = [1, 2, 3, 4, 5, 6]
    const before = source(
      'a',
      uids.map((uid) => message(uid, `${uid}`)),
    )
    const later: readonly (readonly ImportMessage[])[] = [
      before.messages.slice(1),
      [message(1, '1', { flags: FLAG_SEEN }), ...before.messages.slice(1)],
      [message(1, 'other'), ...before.messages.slice(1)],
      [message(1, '1', { modSeq: 80 }), ...before.messages.slice(1)],
    ]
    for (const messages of later) {
      await using store = await open(memoryFs())
      const stop = new AbortController()
      const interrupted = { batchMessages: 2, onProgress: () => stop.abort(), signal: stop.signal }
      await expect(take(store, [before], interrupted)).rejects.toMatchObject({ name: 'AbortError' })
      const after = source('a', messages)
      expect(await take(store, [after])).toMatchObject([{ outcome: 'imported', added: messages.length, present: 0 }])
      expect(await shown(store, 'a')).toEqual(await expected(after))
      expect(await findings(store)).toEqual([])
    }
  })

  test('a UIDVALIDITY from elsewhere is never given again', async () => {
    await using store = await open(memoryFs(), { now: () => 1_000_000_000_000 })
    await take(store, [source('a', [], { uidValidity: 2_000_000_000 })])
    await store.as(anna).remove('a')
    expect((await store.as(anna).create('a')).uidValidity).toBe(2_000_000_001)
    await take(store, [source('b', [], { uidValidity: 2 ** 32 - 1 })])
    expect((await store.as(anna).create('c')).uidValidity).toBe(2_000_000_002)
  })
})

const word = fc.constantFrom('alpha', 'beta', 'gamma', 'delta')
const plan = fc.array(
  fc.record({
    rows: fc.array(
      fc.record({
        gap: fc.integer({ min: 1, max: 4 }),
        text: word,
        shared: fc.boolean(),
        flags: fc.nat({ max: 31 }),
        keywords: fc.subarray(['One', 'two']),
        modSeq: fc.option(fc.integer({ min: 1, max: 200 }), { nil: undefined }),
      }),
      { maxLength: 9 },
    ),
    uidNext: fc.integer({ min: 1, max: 60 }),
    highestModSeq: fc.option(fc.integer({ min: 1, max: 300 }), { nil: undefined }),
  }),
  { minLength: 1, maxLength: 3 },
)
const NAMES = ['INBOX', 'a', 'a/b']

test('whenever the power goes, an import that is run again brings everything once', async () => {
  let disks = 0
  let interrupted = 0
  await fc.assert(
    fc.asyncProperty(plan, fc.nat(), async (mailboxes, seed) => {
      const sources = mailboxes.map(({ rows, uidNext, highestModSeq }, n) => {
        let uid = 0
        const messages = rows.map(({ gap, text, shared, flags, keywords, modSeq }) => {
          uid += gap
          return message(uid, text, { flags, keywords, modSeq, shared: shared ? text : undefined })
        })
        return source(NAMES[n]!, messages, { uidNext, highestModSeq, uidValidity: 100 + n })
      })
      const pictures = await Promise.all(sources.map(expected))
      const work = async (fs: Fs): Promise<void> => {
        await using store = await open(fs)
        await take(store, sources, { batchMessages: 3 })
      }
      const fs = crashableFs()
      await work(fs)
      const states = Array.from(fs.everyState({ seed, maxStates: 2 }))
      const step = Math.max(1, Math.floor(states.length / DISKS))
      for (let at = seed % step; at < states.length; at += step) {
        const after = states[at]!.open()
        disks++
        await using store = await open(after)
        for (const [n, { spec }] of sources.entries()) {
          const picture = (await shown(store, spec.name)) as { guid: string } | undefined
          // Whole, or not there; INBOX is there from the beginning.
          if (picture !== undefined && (n > 0 || picture.guid === Buffer.from(spec.guid).toString('hex')))
            expect(picture).toEqual(pictures[n])
        }
        if (store.as(anna).importer().unfinished().length > 0) interrupted++
        expect(await damage(store)).toEqual([])
        const outcomes = await take(store, sources, { batchMessages: 2 })
        for (const [n, { spec, messages }] of sources.entries()) {
          expect(await shown(store, spec.name)).toEqual(pictures[n])
          expect(outcomes[n]!.added + outcomes[n]!.present).toBe(messages.length)
        }
        expect((await take(store, sources)).map(({ outcome }) => outcome)).toEqual(sources.map(() => 'unchanged'))
        for (const [n, { spec }] of sources.entries()) expect(await shown(store, spec.name)).toEqual(pictures[n])
        expect(await findings(store)).toEqual([])
      }
    }),
    { numRuns },
  )
  console.log(`import: ${disks} disks after a power cut, ${interrupted} of them amid a mailbox`)
})

test('whenever the power goes, what comes in two parts comes once', async () => {
  let disks = 0
  const rows = fc.array(fc.record({ text: word, shared: fc.boolean(), early: fc.boolean() }), {
    minLength: 1,
    maxLength: 9,
  })
  await fc.assert(
    fc.asyncProperty(rows, fc.nat(), async (list, seed) => {
      const all = list.map(({ text, shared }, n) => message(2 * n + 1, text, { shared: shared ? text : undefined }))
      const early = source(
        'INBOX',
        all.filter((_, n) => list[n]!.early),
        { uidNext: 2 * all.length },
      )
      const whole = source('INBOX', all, { uidNext: 2 * all.length })
      const fs = crashableFs()
      {
        await using store = await open(fs)
        await take(store, [early], { batchMessages: 2 })
        await take(store, [whole], { batchMessages: 2 })
      }
      const states = Array.from(fs.everyState({ seed, maxStates: 2 }))
      const step = Math.max(1, Math.floor((2 * states.length) / DISKS))
      for (let at = seed % step; at < states.length; at += step) {
        disks++
        await using store = await open(states[at]!.open())
        await take(store, [whole], { batchMessages: 3 })
        expect(await take(store, [whole])).toMatchObject([{ outcome: 'unchanged', left: 0 }])
        await using mailbox = await store.as(anna).open('INBOX')
        const { view } = mailbox
        // Each has the time of its own.
        const received = Array.from({ length: view.count }, (_, row) => view.extension('received')!.number(row))
        expect(received.sort((a, b) => a - b)).toEqual(all.map(({ receivedMs }) => receivedMs))
        expect(await damage(store)).toEqual([])
      }
    }),
    { numRuns },
  )
  console.log(`import: ${disks} disks after a power cut amid two imports`)
})

test('what POP3 knows is read as it was written', () => {
  const entry = fc.record({
    gap: fc.integer({ min: 1, max: 100_000 }),
    uidl: fc.option(fc.string({ minLength: 1, maxLength: 400 }), { nil: undefined }),
    order: fc.option(fc.nat(), { nil: undefined }),
  })
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 300 }), (list) => {
      let uid = 0
      const entries = list.map(({ gap, uidl, order }) => ({ uid: (uid += gap), uidl, order }))
      expect([...decodePop3(new Map(encodePop3(entries))).values()]).toEqual(entries)
    }),
    { numRuns: 30 },
  )
})

test('the example in docs/formats/tree.md is what is written', () => {
  const page = readFileSync(new URL('../../../../docs/formats/tree.md', import.meta.url), 'utf8')
  const dump = /`pop3\/0000000009`[^`]*`[^`]*`[^`]*`[^`]*`[^`]*```hex\n([^`]*)```/.exec(page)?.[1]
  const entries = [
    { uid: 9, uidl: 'old-9', order: 2 },
    { uid: 10, uidl: 'old-10', order: undefined },
  ]
  expect(encodePop3(entries).map(([key, value]) => [key, toHex(value)])).toEqual([
    ['pop3/0000000009', toHex(parseHex(dump!))],
  ])
})

test('messages that are shared are found by key and GUID, however many there are', () => {
  const shared = new SharedMessages()
  for (let i = 1; i <= 5_000; i++)
    shared.remember(`${i % 2_500}`, guidOf(`${i}`), { ref: i, size: 2 ** 40 + i, form: i & 1, home: `${i % 7}` })
  expect(shared.size).toBe(5_000)
  for (let i = 1; i <= 5_000; i++)
    expect(shared.find(`${i % 2_500}`, guidOf(`${i}`))).toEqual({
      ref: i,
      size: 2 ** 40 + i,
      form: i & 1,
      home: `${i % 7}`,
    })
  expect(shared.find('1', guidOf('0'))).toBeUndefined()
})
