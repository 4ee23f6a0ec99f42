import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { type FaultPlan, faultyFs } from '@mailstead/fs/faults'
import { UidSet } from '@mailstead/uidset'
import { afterAll, describe, expect, test } from 'vitest'
import {
  FLAG_FLAGGED,
  FLAG_SEEN,
  type Index,
  type IndexEvent,
  type IndexFinding,
  type IndexOptions,
} from './contract.ts'
import { CONTROL_SLOT } from './control.ts'
import { segmentName } from './segment.ts'
import { findSnapshotTrailer, readSnapshotHeader, snapshotSeed } from './snapshot.ts'
import { openIndex } from './open-index.ts'
import { createBoxAndInbox } from '../../test/schema.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const counted = { torn: 0, flips: 0, faults: 0 }
afterAll(() => console.log(`recovery: ${JSON.stringify(counted)}`))

const LOG = `store/log/${segmentName(1)}`

async function abandon(index: Index): Promise<void> {
  await (index as Index & { abandon(): Promise<void> }).abandon()
}

async function filesOf(fs: Fs, directory = ''): Promise<Map<string, Uint8Array>> {
  const files = new Map<string, Uint8Array>()
  for await (const page of fs.list(directory))
    for (const { name, kind } of page) {
      const path = directory === '' ? name : `${directory}/${name}`
      if (kind === 'file') files.set(path, await fs.readFile(path))
      else for (const [inner, bytes] of await filesOf(fs, path)) files.set(inner, bytes)
    }
  return files
}

async function fsOf(files: ReadonlyMap<string, Uint8Array>): Promise<Fs> {
  const fs = memoryFs()
  for (const [path, bytes] of files) await fs.writeFile(path, bytes)
  return fs
}

/** Everything that tables say, as one text; or the code of the error for those that say nothing. */
async function contents(index: Index): Promise<Record<string, string>> {
  const said: Record<string, string> = {}
  for (const { id } of index.tables) {
    try {
      await using table = (await index.open(id))!
      const { view } = table
      const columns = ['ref', 'guid', 'uses', 'size'].map((name) => view.extension(name))
      await view.load(['ref', 'guid', 'uses', 'size'])
      const rows: string[] = []
      for (let row = 0; row < view.count; row++)
        rows.push(
          [
            view.uid(row),
            view.flags(row),
            view.modSeq(row),
            view.keywordSets[view.keywordSet(row)]!.map((k) => view.keywords[k]).join('+'),
            ...columns.map((column) => (column === undefined ? '' : Buffer.from(column.value(row)).toString('hex'))),
          ].join(','),
        )
      const values = [...view.values].map(([key, bytes]) => `${key}=${Buffer.from(bytes).toString('hex')}`)
      said[id] =
        `${view.uidNext} ${view.highestModSeq} ${table.expungedSince(0)?.toString()} ${values.join(' ')}\n${rows.join('\n')}`
    } catch (error) {
      said[id] = (error as { code: string }).code
    }
  }
  return said
}

async function findingsOf(index: Index): Promise<IndexFinding[]> {
  const all: IndexFinding[] = []
  for await (const page of index.check()) all.push(...page)
  return all
}

async function create(fs: Fs, options: IndexOptions = {}): Promise<Index> {
  const index = await openIndex(fs, 'store', { create: true, ...options })
  await using tx = index.begin()
  createBoxAndInbox(tx)
  tx.createTable({ id: 'other', uidValidity: 3, columns: [] })
  await tx.commit()
  return index
}

function deliver(index: Index, n: number): Promise<unknown> {
  const tx = index.begin()
  const ref = tx.append('box', { columns: { size: 100 + n } })
  tx.append('inbox', {
    flags: n % 2,
    keywords: n % 3 === 0 ? ['odd'] : [],
    columns: { ref, guid: new Uint8Array(16).fill(n) },
  })
  return tx.commit()
}

/** A store with some history, closed. */
async function history(fs: Fs): Promise<void> {
  await using index = await create(fs)
  for (let n = 0; n < 12; n++) await deliver(index, n)
  await index.checkpoint()
  const tx = index.begin()
  tx.changeFlags('inbox', UidSet.range(2, 5), { add: FLAG_SEEN, addKeywords: ['$Label'] })
  tx.expunge('inbox', UidSet.of(3))
  tx.setValue('other', 'name', Buffer.from('value'))
  await tx.commit()
  await index.checkpoint()
  for (let n = 12; n < 16; n++) await deliver(index, n)
  await using last = index.begin()
  last.append('other', {})
  await last.commit()
}

describe('a torn tail', () => {
  test('cut at any byte of the last group, a log keeps what was there before and each transaction whole or not at all', async () => {
    const fs = memoryFs()
    const index = await create(fs)
    for (let n = 0; n < 3; n++) await deliver(index, n)
    const before = (await fs.readFile(LOG)).length
    // One group: three transactions of one turn.
    await Promise.all([deliver(index, 3), deliver(index, 4), deliver(index, 5)])
    await abandon(index)
    const files = await filesOf(fs)
    const log = files.get(LOG)!
    for (let cut = before; cut <= log.length; cut++) {
      counted.torn++
      const crashed = await fsOf(new Map([...files, [LOG, log.slice(0, cut)]]))
      const events: IndexEvent[] = []
      await using again = await openIndex(crashed, 'store', { onEvent: (event) => events.push(event) })
      const { count } = again.info('inbox')!
      expect(count).toBeGreaterThanOrEqual(3)
      expect(again.info('box')!.count).toBe(count)
      if (cut === log.length) expect(count).toBe(6)
      expect((await findingsOf(again)).filter((one) => one.severity === 'damage')).toEqual([])
      await deliver(again, 77)
      expect(again.info('inbox')!.count).toBe(count + 1)
      expect(events.filter((event) => event.kind.includes('damaged'))).toEqual([])
      await again[Symbol.asyncDispose]()
      await using third = await openIndex(crashed, 'store')
      expect(third.info('inbox')!.count).toBe(count + 1)
      expect(await findingsOf(third)).toEqual([])
    }
  })

  test('old garbage and zeros after the end are cut off by the first writer, and only by a writer', async () => {
    const fs = memoryFs()
    const index = await create(fs)
    await deliver(index, 1)
    await abandon(index)
    const log = await fs.readFile(LOG)
    for (const tail of [new Uint8Array(5000), Buffer.from(log.slice(300)), new Uint8Array(3).fill(1)]) {
      await fs.writeFile(LOG, Buffer.concat([log, tail]))
      {
        await using reader = await openIndex(fs, 'store')
        expect(reader.info('inbox')!.count).toBe(1)
        expect((await findingsOf(reader)).map((one) => one.kind)).toEqual(['torn-tail'])
      }
      expect((await fs.readFile(LOG)).length).toBe(log.length + tail.length)
    }
    await using writer = await openIndex(fs, 'store')
    await deliver(writer, 2)
    expect(await findingsOf(writer)).toEqual([])
  })

  test('a sealed log that lost its end is damaged: nothing is served, nothing is written', async () => {
    const fs = memoryFs()
    await history(fs)
    const files = await filesOf(fs)
    const log = files.get(LOG)!
    for (const cut of [1, 30, 200]) {
      const crashed = await fsOf(new Map([...files, [LOG, log.slice(0, log.length - cut)]]))
      await using index = await openIndex(crashed, 'store')
      await expect(index.open('other')).rejects.toMatchObject({ code: 'INDEX_CORRUPT', table: 'other' })
      await expect(deliver(index, 1)).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
      expect((await findingsOf(index)).some((one) => one.severity === 'damage')).toBe(true)
    }
  })
})

describe('bit rot in a sealed store', () => {
  test('a flipped bit is found by check, and no table ever says anything else than before', async () => {
    const fs = memoryFs()
    await history(fs)
    const files = await filesOf(fs)
    const expected = await (async () => {
      await using index = await openIndex(fs, 'store')
      return await contents(index)
    })()
    let seed = 12345
    const total = [...files.values()].reduce((sum, bytes) => sum + bytes.length, 0)
    const every = depth === undefined ? Math.ceil(total / 450) : 1
    const outcomes: Record<string, number> = {}
    for (const [path, bytes] of files) {
      for (let at = seed % every; at < bytes.length; at += every) {
        seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
        const flipped = bytes.slice()
        flipped[at]! ^= 1 << (seed >>> 29)
        const rotten = await fsOf(new Map([...files, [path, flipped]]))
        counted.flips++
        let index: Index
        try {
          index = await openIndex(rotten, 'store', { readOnly: true })
        } catch (error) {
          expect(error).toMatchObject({ code: 'INDEX_CORRUPT' })
          outcomes['index refused'] = (outcomes['index refused'] ?? 0) + 1
          continue
        }
        const findings = await findingsOf(index)
        expect(findings, `${path} at ${at}`).not.toEqual([])
        const said = await contents(index)
        let refused = 0
        for (const [id, text] of Object.entries(said)) {
          if (text === 'INDEX_CORRUPT') refused++
          else expect(text, `${id} after a flip in ${path} at ${at}`).toBe(expected[id])
        }
        const kind = refused === 0 ? 'repaired from what is redundant' : `${refused} tables refused`
        outcomes[kind] = (outcomes[kind] ?? 0) + 1
        await index[Symbol.asyncDispose]()
      }
    }
    console.log('bit rot:', outcomes)
  })

  test('damage in one frame costs only the tables it touched', async () => {
    const fs = memoryFs()
    const index = await create(fs)
    await deliver(index, 1)
    await deliver(index, 2)
    const tx = index.begin()
    tx.append('other', {})
    await tx.commit()
    await index[Symbol.asyncDispose]()
    const log = await fs.readFile(LOG)
    // In the payload of the second delivery: its GUID.
    log[Buffer.from(log.buffer, log.byteOffset, log.length).indexOf(Buffer.alloc(16, 2))]! ^= 1
    await fs.writeFile(LOG, log)
    await using again = await openIndex(fs, 'store')
    await expect(again.open('inbox')).rejects.toMatchObject({ code: 'INDEX_CORRUPT', table: 'inbox' })
    await expect(again.open('box')).rejects.toMatchObject({ code: 'INDEX_CORRUPT', table: 'box' })
    await using other = (await again.open('other'))!
    expect(other.view.count).toBe(1)
    const more = again.begin()
    more.append('other', {})
    await more.commit()
    expect(other.view.count).toBe(2)
    expect((await findingsOf(again)).map((one) => one.kind)).toContain('frame-checksum')
  })

  test('a damaged snapshot is replaced by the one before and the log', async () => {
    const fs = memoryFs()
    await history(fs)
    const expected = await (async () => {
      await using index = await openIndex(fs, 'store')
      return await contents(index)
    })()
    const snapshot = await fs.readFile('store/tables/inbox.snap')
    const lost = snapshot.slice()
    // The newest directory, both copies, and the trailer.
    lost.fill(0x55, snapshot.length - 600)
    await fs.writeFile('store/tables/inbox.snap', lost)
    const events: IndexEvent[] = []
    await using index = await openIndex(fs, 'store', { onEvent: (event) => events.push(event) })
    expect(await contents(index)).toEqual(expected)
    expect(events.map((event) => event.kind)).toContain('snapshot-replaced')
  })

  test('whatever directories of a snapshot are ruined, the newest whole one is gone on from', async () => {
    const fs = memoryFs()
    await history(fs)
    const expected = await (async () => {
      await using index = await openIndex(fs, 'store')
      for (let n = 20; n < 24; n++) {
        await deliver(index, n)
        await index.checkpoint()
      }
      return await contents(index)
    })()
    const path = 'store/tables/inbox.snap'
    const bytes = Uint8Array.from(await fs.readFile(path))
    const seed = snapshotSeed(readSnapshotHeader(bytes)!.salt)
    const trailers: NonNullable<ReturnType<typeof findSnapshotTrailer>>[] = []
    for (let end = bytes.length; ; ) {
      const trailer = findSnapshotTrailer(bytes.subarray(0, end), seed)
      if (trailer === undefined) break
      trailers.push(trailer)
      end = trailer.directory
    }
    expect(trailers.length).toBeGreaterThan(2)
    // The trailers stay: each leads to a directory of which neither copy can be read.
    for (const [ruined, { directory, directoryLength }] of trailers.slice(0, -1).entries()) {
      bytes.fill(0x55, directory, directory + 2 * directoryLength)
      await fs.writeFile(path, bytes)
      const events: string[] = []
      const onEvent = ({ kind, message }: IndexEvent): number => events.push(`${kind}: ${message}`)
      await using index = await openIndex(fs, 'store', { readOnly: true, onEvent })
      expect(await contents(index)).toEqual(expected)
      const from = expect.stringMatching(`^snapshot-replaced: .*going on from frame ${trailers[ruined + 1]!.frame}$`)
      expect(events).toContainEqual(from)
    }
  })

  test('without its list of tables, an index is opened from the snapshots', async () => {
    const fs = memoryFs()
    await history(fs)
    const expected = await (async () => {
      await using index = await openIndex(fs, 'store')
      return await contents(index)
    })()
    await fs.remove('store/tables/directory')
    {
      await using index = await openIndex(fs, 'store')
      expect(await contents(index)).toEqual(expected)
    }
    await fs.remove('store/tables/directory.old')
    await using index = await openIndex(fs, 'store')
    expect(await contents(index)).toEqual(expected)
  })

  test('a damaged slot of the control file is made up for by the other one, mended by the next writer, and told', async () => {
    for (const slot of [0, CONTROL_SLOT]) {
      const fs = memoryFs()
      await history(fs)
      const bytes = Uint8Array.from(await fs.readFile('store/control'))
      bytes[slot + 30]! ^= 4
      await fs.writeFile('store/control', bytes)
      const told = async (readOnly: boolean): Promise<string[]> => {
        const events: IndexEvent[] = []
        await using index = await openIndex(fs, 'store', { readOnly, onEvent: (event) => events.push(event) })
        expect(index.info('inbox')!.count).toBeGreaterThanOrEqual(15)
        if (!readOnly) await deliver(index, 0)
        return events.map(({ kind, message }) => `${kind}: ${message}`)
      }
      const event = expect.stringMatching(`^control-slot-damaged: .*offset ${slot} `)
      expect(await told(true)).toEqual([event])
      expect(await told(false)).toEqual([event])
      expect(await told(true)).toEqual([])
    }
  })

  test('without its control file, an index is opened as one that was not closed', async () => {
    const fs = memoryFs()
    await history(fs)
    await fs.remove('store/control')
    const events: IndexEvent[] = []
    await using index = await openIndex(fs, 'store', { onEvent: (event) => events.push(event) })
    expect(events.map((event) => event.kind)).toContain('control-damaged')
    expect(index.info('inbox')!.count).toBe(15)
    await deliver(index, 5)
    await index[Symbol.asyncDispose]()
    await using again = await openIndex(fs, 'store')
    expect(await findingsOf(again)).toEqual([])
  })
})

describe('a file system that fails', () => {
  const errors = ['FS_IO', 'FS_NO_SPACE', 'short', 'FS_UNCERTAIN'] as const
  const operations = [
    'append',
    'sync',
    'write',
    'truncate',
    'writeFile',
    'open',
    'read',
    'syncDirectory',
    'remove',
  ] as const

  for (const operation of operations) {
    test(`${operation} failing at any time loses nothing that was acknowledged`, async () => {
      for (const fault of errors)
        for (let nth = 1; nth <= 14; nth++) {
          counted.faults++
          let seen = 0
          let armed = false
          let fired = false
          const plan: FaultPlan = {
            fail(asked) {
              if (!armed || asked !== operation || ++seen !== nth) return undefined
              fired = true
              return fault
            },
          }
          const inner = memoryFs()
          const index = await create(faultyFs(inner, plan), { segmentBytes: 900, checkpointBytes: 3000 })
          const events: string[] = []
          armed = true
          const acknowledged: number[] = []
          let uncertain = 0
          for (let n = 0; n < 8; n++) {
            try {
              await deliver(index, n)
              acknowledged.push(n)
            } catch (error) {
              const { code } = error as { code: string }
              events.push(code)
              if (code === 'INDEX_UNCERTAIN') uncertain++
              // Whatever failed, what is shown is what was acknowledged, and later perhaps what may have happened.
              expect(index.info('inbox')!.count - acknowledged.length).toBeLessThanOrEqual(Math.max(0, uncertain - 1))
              expect(index.info('inbox')!.count).toBeGreaterThanOrEqual(acknowledged.length)
            }
            if (n === 4) await index.checkpoint().catch(() => {})
          }
          // One failure costs one transaction.
          expect(acknowledged.length).toBeGreaterThanOrEqual(7)
          armed = false
          await index[Symbol.asyncDispose]()
          await using again = await openIndex(inner, 'store')
          await using table = (await again.open('inbox'))!
          const found = Array.from(
            { length: table.view.count },
            (_, row) => table.view.extension('guid')!.value(row)[0]!,
          )
          const expected = new Set(acknowledged)
          expect(
            acknowledged.every((n) => found.includes(n)),
            `${fault} at ${nth}: ${events.join(' ')}`,
          ).toBe(true)
          if (uncertain === 0) expect(found.filter((n) => !expected.has(n))).toEqual([])
          expect((await findingsOf(again)).filter((one) => one.severity === 'damage')).toEqual([])
          await deliver(again, 99)
          if (!fired) break
        }
    })
  }

  test('a failed flush is taken back with its group, and lazy changes before it stay', async () => {
    let failing = false
    const inner = memoryFs()
    const fs = faultyFs(inner, {
      fail: (operation, path) => (failing && operation === 'sync' && path.endsWith('.log') ? 'FS_IO' : undefined),
    })
    const index = await create(fs)
    await deliver(index, 1)
    const lazily = async (flag: number): Promise<void> => {
      const tx = index.begin()
      tx.changeFlags('inbox', UidSet.of(1), { add: flag })
      await tx.commit({ durability: 'lazy' })
    }
    await lazily(FLAG_SEEN)
    await lazily(FLAG_FLAGGED)
    const log = await inner.readFile(LOG)
    failing = true
    await expect(Promise.all([deliver(index, 2), deliver(index, 3)])).rejects.toMatchObject({ code: 'INDEX_UNCERTAIN' })
    failing = false
    expect(index.info('inbox')!.count).toBe(1)
    // Whoever is next finds out what the file holds, and makes it durable first.
    await deliver(index, 4)
    const { count } = index.info('inbox')!
    expect([2, 4]).toContain(count)
    await index[Symbol.asyncDispose]()
    expect(Buffer.compare((await inner.readFile(LOG)).subarray(0, log.length), log)).toBe(0)
    await using again = await openIndex(inner, 'store')
    await using table = (await again.open('inbox'))!
    expect(table.view.flags(0)).toBe(FLAG_SEEN | FLAG_FLAGGED | 1)
    expect(table.view.count).toBe(count)
    await deliver(again, 5)
  })

  test('a table whose creation may be there is found', async () => {
    let failing = false
    const inner = memoryFs()
    const fs = faultyFs(inner, {
      fail: (operation) => (failing && (operation === 'sync' || operation === 'truncate') ? 'FS_IO' : undefined),
    })
    await using index = await create(fs)
    const createWork = async (): Promise<void> => {
      const tx = index.begin()
      tx.createTable({ id: 'work', uidValidity: 7, columns: [] })
      await tx.commit()
    }
    failing = true
    await expect(createWork()).rejects.toMatchObject({ code: 'INDEX_UNCERTAIN' })
    failing = false
    await expect(createWork()).rejects.toMatchObject({ code: 'INDEX_TABLE_EXISTS' })
    expect(index.info('work')).toMatchObject({ count: 0 })
  })

  test('whoever closes writes what a failed flush was to cover once more, also if others stay', async () => {
    let failing = false
    const written: string[] = []
    const inner = memoryFs()
    const fs = faultyFs(inner, {
      fail: (operation, path) => {
        if (path.endsWith('.log') && operation === 'write') written.push(path)
        return failing && (operation === 'sync' || operation === 'truncate') ? 'FS_IO' : undefined
      },
    })
    const index = await create(fs)
    await using other = await openIndex(inner, 'store')
    await deliver(index, 1)
    failing = true
    await expect(deliver(index, 2)).rejects.toMatchObject({ code: 'INDEX_UNCERTAIN' })
    failing = false
    await index[Symbol.asyncDispose]()
    expect(written.length).toBeGreaterThan(0)
    await other.refresh()
    expect(other.info('inbox')!.count).toBe(2)
  })
})

describe('lazy changes', () => {
  test('lost with the power, they leave no modseq that anybody was shown', async () => {
    const fs = memoryFs()
    const index = await create(fs)
    await deliver(index, 1)
    const flag = async (add: number, durability: 'lazy' | 'flushed'): Promise<void> => {
      const tx = index.begin()
      tx.changeFlags('inbox', UidSet.of(1), { add })
      await tx.commit({ durability })
    }
    await flag(FLAG_SEEN, 'lazy')
    const flushed = (await fs.readFile(LOG)).length
    await flag(FLAG_FLAGGED, 'lazy')
    await flag(16, 'lazy')
    const shown = index.info('inbox')!.highestModSeq
    await abandon(index)
    // What was not flushed is gone.
    const log = await fs.readFile(LOG)
    expect(log.length).toBeGreaterThan(flushed)
    await fs.writeFile(LOG, log.slice(0, flushed))
    await using again = await openIndex(fs, 'store')
    expect(again.info('inbox')!.highestModSeq).toBeGreaterThanOrEqual(shown)
    await using table = (await again.open('inbox'))!
    expect(table.view.highestModSeq).toBe(again.info('inbox')!.highestModSeq)
    const before = table.view.highestModSeq
    const tx = again.begin()
    tx.changeFlags('inbox', UidSet.of(1), { add: 2 })
    await tx.commit()
    expect(table.view.highestModSeq).toBeGreaterThan(before)
    // A second opening changes nothing.
    await again[Symbol.asyncDispose]()
    const files = await filesOf(fs)
    await (await openIndex(fs, 'store'))[Symbol.asyncDispose]()
    expect(await filesOf(fs)).toEqual(files)
  })
})

describe('a handle that fell behind', () => {
  test('reads everything anew when another one dropped the frames it had not seen', async () => {
    const fs = memoryFs()
    const index = await create(fs, { segmentBytes: 800 })
    const events: string[] = []
    await using behind = await openIndex(fs, 'store', { onEvent: (event) => events.push(event.kind) })
    await using inbox = (await behind.open('inbox'))!
    let told = 0
    const watching = inbox.watch(() => told++)
    watching[Symbol.dispose]()
    const old = inbox.view
    for (let n = 0; n < 30; n++) {
      await deliver(index, n)
      if (n % 5 === 4) await index.checkpoint()
    }
    expect((await filesOf(fs)).has(LOG)).toBe(false)
    await behind.refresh()
    expect(inbox.view.count).toBe(30)
    expect(old.count).toBe(0)
    expect(events).toContain('reloaded')
    await deliver(behind, 31)
    await index.refresh()
    expect(await contents(index)).toEqual(await contents(behind))
    // The same when it commits first.
    for (let n = 40; n < 70; n++) {
      await deliver(index, n)
      if (n % 5 === 4) await index.checkpoint()
    }
    await deliver(behind, 71)
    expect(inbox.view.count).toBe(62)
    await index[Symbol.asyncDispose]()
    expect(await findingsOf(behind)).toEqual([])
  })

  test('a segment that is lost in the middle costs the tables, not the index', async () => {
    const fs = memoryFs()
    {
      await using index = await create(fs, { segmentBytes: 800 })
      for (let n = 0; n < 10; n++) await deliver(index, n)
    }
    const second = `store/log/${segmentName(2)}`
    const bytes = await fs.readFile(second)
    await fs.remove(second)
    {
      await using index = await openIndex(fs, 'store')
      await expect(index.open('inbox')).rejects.toMatchObject({ code: 'INDEX_CORRUPT' })
      expect((await findingsOf(index)).map((one) => one.kind)).toContain('segment-missing')
    }
    await fs.writeFile(second, bytes)
    await using index = await openIndex(fs, 'store')
    expect(index.info('inbox')!.count).toBe(10)
    expect(await findingsOf(index)).toEqual([])
  })
})

describe('locks', () => {
  test('a commit gives up when another process holds the lock too long, and the next one goes through', async () => {
    const fs = memoryFs()
    await using index = await create(fs, { lockWaitMs: 20 })
    {
      await using lock = await fs.lock('store/lock')
      await lock.acquire()
      await expect(deliver(index, 1)).rejects.toMatchObject({ code: 'INDEX_LOCKED' })
      // Who only reads does not wait for writers.
      await index.refresh()
      expect(index.info('inbox')!.count).toBe(0)
    }
    await deliver(index, 1)
    expect(index.info('inbox')!.count).toBe(1)
  })

  test('what another handle commits is noticed without asking, where the file system tells', async () => {
    const fs = memoryFs()
    await using index = await create(fs)
    await using other = await openIndex(fs, 'store')
    const told = new Promise<readonly string[]>((resolve) => other.watch(resolve))
    await deliver(index, 1)
    expect([...(await told)].sort()).toEqual(['box', 'inbox'])
    expect(other.info('inbox')!.count).toBe(1)
  })
})
