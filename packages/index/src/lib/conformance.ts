/**
 * Proves that an index keeps its contract, on whatever file system it lives. Imports no test runner and no driver; gets a
 * fresh place each time and opens the index there as often as it likes.
 */
import assert from 'node:assert/strict'
import { UidSet } from '@mailstead/uidset'
import { changesBetween } from './changes.ts'
import {
  FLAG_ANSWERED,
  FLAG_DELETED,
  FLAG_FLAGGED,
  FLAG_SEEN,
  type Index,
  type IndexOptions,
  type IndexTransaction,
  type Table,
  type TableSpec,
} from './contract.ts'
import type { IndexErrorCode } from './error.ts'
import { CHUNK_ROWS, VALUE_MAX } from './limits.ts'
import { countersOf, describeModel, describeView, expungedFault, Model, type ModelChange, request } from './model.ts'

/** The two functions every runner has: vitest, node:test, mocha. */
export interface Runner {
  readonly describe: (name: string, body: () => void) => unknown
  readonly it: (name: string, body: () => Promise<void>) => unknown
}

/** Where an index is kept. */
export interface IndexPlace extends AsyncDisposable {
  /** Opens the index there: another handle each time, as another process would have. */
  open(options?: IndexOptions): Promise<Index>
}

export interface IndexUnderTest {
  /** A fresh, empty place each time. */
  create(): Promise<IndexPlace>
  /** Random walks compared with the model. (default 5) */
  readonly modelRuns?: number
  /** Commits of each. (default 60) */
  readonly modelSteps?: number
}

const BOX: TableSpec = {
  id: 'box',
  uidValidity: 1,
  columns: [
    { name: 'uses', bytes: 4 },
    { name: 'size', bytes: 6, summed: true },
  ],
}
const INBOX: TableSpec = {
  id: 'inbox',
  uidValidity: 7,
  columns: [
    { name: 'ref', bytes: 4, counts: { table: 'box', column: 'uses' } },
    { name: 'guid', bytes: 16 },
    { name: 'received', bytes: 8 },
    { name: 'size', bytes: 4, summed: true },
  ],
}

/** Declares the tests of the contract, each in a place of its own, which is disposed of when the test ends. */
export function indexConformance({ describe, it }: Runner, subject: IndexUnderTest): void {
  const test = (name: string, body: (index: Index, place: IndexPlace) => Promise<void>): void => {
    it(name, async () => {
      await using place = await subject.create()
      await using index = await place.open({ create: true })
      await transact(index, (tx) => {
        tx.createTable(BOX)
        tx.createTable(INBOX)
      })
      await body(index, place)
      await using checked = await place.open({ readOnly: true })
      const findings = []
      for await (const page of checked.check()) findings.push(...page.filter((one) => one.severity === 'damage'))
      assert.deepEqual(findings, [])
    })
  }

  describe('opening', () => {
    it('of nothing is INDEX_NOT_FOUND, unless `create` is set', async () => {
      await using place = await subject.create()
      await refuses(place.open(), 'INDEX_NOT_FOUND')
      await using index = await place.open({ create: true })
      await using again = await place.open()
      assert.deepEqual(again.uuid, index.uuid)
      assert.equal(index.uuid.length, 16)
    })
    test('again finds everything as it was', async (index, place) => {
      await append(index, 5)
      await transact(index, (tx) => {
        tx.changeFlags('inbox', UidSet.of(2), { add: FLAG_SEEN, addKeywords: ['Work'] })
        tx.setValue('inbox', 'key', Uint8Array.of(1, 2))
        tx.expunge('inbox', UidSet.of(4))
      })
      const before = await described(index)
      await index[Symbol.asyncDispose]()
      await using again = await place.open()
      assert.deepEqual(await described(again), before)
      await again.checkpoint()
      assert.deepEqual(await described(again), before)
      await again[Symbol.asyncDispose]()
      await using third = await place.open({ readOnly: true })
      assert.deepEqual(await described(third), before)
      await transact(third, (tx) => tx.append('box', {})).then(
        () => assert.fail('a reader wrote'),
        (error: unknown) => assert.ok(error instanceof TypeError),
      )
    })
    test('a closed index refuses with INDEX_CLOSED, and its views go on', async (index) => {
      await append(index, 3)
      const table = await opened(index, 'inbox')
      const { view } = table
      await index[Symbol.asyncDispose]()
      await index[Symbol.asyncDispose]()
      assert.equal(view.count, 3)
      assert.equal(view.uid(2), 3)
      await refuses(index.open('inbox'), 'INDEX_CLOSED')
      await refuses(index.refresh(), 'INDEX_CLOSED')
      assert.throws(() => index.begin(), { code: 'INDEX_CLOSED' })
    })
  })

  describe('what changed of all tables', () => {
    test('is told since any frame, in every process and after a restart', async (index, place) => {
      const { frame } = index.changesSince(0)!
      const told = {
        created: [{ id: 'new', frame: 0 }],
        changed: [{ id: 'inbox', frame: 0 }],
        dropped: [{ id: 'box', frame: 0 }],
      }
      await transact(index, (tx) => tx.createTable({ id: 'new', uidValidity: 3, columns: [] }))
      await append(index, 2)
      await transact(index, (tx) => tx.expunge('inbox', UidSet.range(1, 2)))
      told.changed[0]!.frame = index.changesSince(frame)!.frame
      await transact(index, (tx) => tx.append('new', {}))
      told.created[0]!.frame = index.changesSince(frame)!.frame
      await transact(index, (tx) => tx.dropTable('inbox'))
      await transact(index, (tx) => tx.dropTable('box'))
      told.dropped[0]!.frame = index.changesSince(frame)!.frame
      await transact(index, (tx) => {
        tx.createTable({ id: 'other', uidValidity: 4, columns: [] })
      })
      await transact(index, (tx) => tx.dropTable('other'))
      const sortedIds = (list: readonly { readonly id: string }[]): string[] => list.map(({ id }) => id).sort()
      const expectTold = (one: Index): void => {
        const changes = one.changesSince(frame)!
        assert.deepEqual(changes.created, told.created)
        assert.deepEqual(changes.changed, [])
        assert.deepEqual(sortedIds(changes.dropped), ['box', 'inbox'])
        assert.deepEqual(
          changes.dropped.find(({ id }) => id === 'box'),
          told.dropped[0],
        )
        assert.deepEqual(one.changesSince(changes.frame)!.created, [])
        assert.equal(one.changesSince(changes.frame + 99), undefined)
      }
      expectTold(index)
      await index.checkpoint()
      expectTold(index)
      {
        await using other = await place.open()
        expectTold(other)
        await other.checkpoint()
      }
      await index[Symbol.asyncDispose]()
      await using again = await place.open()
      expectTold(again)
    })
    test('and tables with the same rows have the same digest, others another', async (index) => {
      const spec = { ...INBOX, id: 'copy', uidValidity: 8 }
      await transact(index, (tx) => tx.createTable(spec))
      await append(index, 3, { flags: FLAG_SEEN, keywords: ['One', 'Two'] })
      const inbox = await opened(index, 'inbox')
      await transact(index, (tx) => tx.changeFlags('inbox', UidSet.of(2), { add: FLAG_FLAGGED }))
      await transact(index, (tx) => {
        tx.append('copy', { keywords: ['two'] })
      })
      const digestOf = (id: string): string => index.info(id)!.digest
      assert.notEqual(digestOf('copy'), digestOf('inbox'))
      await transact(index, (tx) => tx.dropTable('copy'))
      await transact(index, (tx) => tx.createTable(spec))
      await transact(index, (tx) => tx.appendFrom('copy', inbox.view, Uint32Array.of(0, 1, 2)))
      assert.equal(digestOf('copy'), digestOf('inbox'))
      assert.equal(inbox.view.digest, digestOf('inbox'))
      await transact(index, (tx) => tx.changeFlags('copy', UidSet.of(3), { removeKeywords: ['ONE'] }))
      assert.notEqual(digestOf('copy'), digestOf('inbox'))
      await transact(index, (tx) => tx.changeFlags('copy', UidSet.of(3), { addKeywords: ['ONE'] }))
      assert.equal(digestOf('copy'), digestOf('inbox'))
    })
  })

  describe('tables', () => {
    test('are known without being opened', async (index) => {
      await append(index, 3, { flags: FLAG_SEEN, size: 10 })
      await append(index, 2, { flags: FLAG_DELETED, size: 1 })
      assert.deepEqual(index.info('inbox'), {
        id: 'inbox',
        uidValidity: 7,
        uidNext: 6,
        highestModSeq: 3,
        count: 5,
        unseen: 2,
        deleted: 2,
        bytes: 32,
        digest: '0ba7dc86c8a5d644',
      })
      assert.equal(index.info('absent'), undefined)
      assert.equal(await index.open('absent'), undefined)
      assert.deepEqual(index.tables.map((info) => info.id).sort(), ['box', 'inbox'])
    })
    test('that exist are INDEX_TABLE_EXISTS, those that do not INDEX_TABLE_GONE', async (index) => {
      await refuses(
        transact(index, (tx) => tx.createTable(BOX)),
        'INDEX_TABLE_EXISTS',
      )
      await refuses(
        transact(index, (tx) => tx.append('absent', {})),
        'INDEX_TABLE_GONE',
      )
      await refuses(
        transact(index, (tx) => tx.dropTable('absent')),
        'INDEX_TABLE_GONE',
      )
    })
    test('dropped are gone for everybody, their views stay, and their uses end', async (index, place) => {
      await append(index, 2)
      const table = await opened(index, 'inbox')
      await using other = await place.open()
      await transact(other, (tx) => tx.dropTable('inbox'))
      await index.refresh()
      assert.equal(index.info('inbox'), undefined)
      assert.equal(table.view.count, 2)
      assert.deepEqual(await uses(index), [0, 0])
      await transact(index, (tx) => tx.createTable({ ...INBOX, uidValidity: 8, uidNext: 50 }))
      assert.equal((await opened(index, 'inbox')).view.uidNext, 50)
    })
    test('of an impossible shape are refused at once', async (index) => {
      await using tx = index.begin()
      const bad: Partial<TableSpec>[] = [
        { id: '' },
        { id: 'Inbox' },
        { id: '../x' },
        { uidValidity: 0 },
        { columns: [{ name: 'x', bytes: 65 }] },
        { columns: [{ name: 'X', bytes: 4 }] },
        {
          columns: [
            { name: 'x', bytes: 4 },
            { name: 'x', bytes: 4 },
          ],
        },
        { columns: [{ name: 'x', bytes: 2, counts: { table: 'box', column: 'uses' } }] },
        { columns: [{ name: 'x', bytes: 8, summed: true }] },
      ]
      for (const part of bad) assert.throws(() => tx.createTable({ id: 'a', uidValidity: 1, columns: [], ...part }))
    })
  })

  describe('rows', () => {
    test('get ascending UIDs at commit, and keep what they were given', async (index) => {
      const tx = index.begin()
      const box = tx.append('box', { columns: { size: 1234 } })
      const guid = new Uint8Array(16).fill(9)
      const row = tx.append('inbox', {
        flags: FLAG_FLAGGED,
        keywords: ['B', 'a'],
        columns: { ref: box, guid, received: 1.5e12 + 0.5, size: 77 },
      })
      assert.equal(row.uid, 0)
      const { frame } = await tx.commit()
      assert.ok(frame > 0)
      assert.equal(row.uid, 1)
      const { view } = await opened(index, 'inbox')
      assert.equal(view.rowOf(1), 0)
      assert.equal(view.rowOf(2), -1)
      assert.equal(view.flags(0), FLAG_FLAGGED)
      assert.deepEqual(view.keywordSets[view.keywordSet(0)]!.map((k) => view.keywords[k]!).sort(), ['B', 'a'])
      await view.load(['ref', 'guid', 'received', 'size'])
      assert.equal(view.extension('ref')!.number(0), box.uid)
      assert.deepEqual([...view.extension('guid')!.value(0)], [...guid])
      assert.equal(view.extension('received')!.number(0), 1.5e12 + 0.5)
      assert.equal(view.extension('absent'), undefined)
      assert.equal(view.bytes, 77)
    })
    test('are found by UID, with and without gaps, across chunks', async (index) => {
      const count = CHUNK_ROWS * 2 + 10
      await append(index, count)
      await transact(index, (tx) =>
        tx.expunge('inbox', UidSet.fromRanges([1, 3, 100, 100, CHUNK_ROWS - 1, CHUNK_ROWS + 5])),
      )
      const { view } = await opened(index, 'inbox')
      assert.equal(view.count, count - 11)
      assert.equal(view.rowOf(3), -1)
      assert.equal(view.rowsBelow(4), 0)
      assert.equal(view.rowsBelow(100), 96)
      assert.equal(view.rowsBelow(101), 96)
      assert.equal(view.rowsBelow(2 ** 32 - 1), view.count)
      for (let row = 0; row < view.count; row += 37) {
        assert.equal(view.rowOf(view.uid(row)), row)
        assert.equal(view.rowsBelow(view.uid(row)), row)
      }
      assert.throws(() => view.uid(view.count), RangeError)
      let rows = 0
      for (const chunk of view.chunks) {
        assert.equal(chunk.first, rows)
        assert.equal(chunk.uids.length, chunk.rows)
        rows += chunk.rows
      }
      assert.equal(rows, view.count)
    })
    test('appended many at once are what they are one by one', async (index) => {
      await append(index, 2)
      const ref = new Uint8Array(12)
      for (const [i, uid] of [2, 1, 2].entries()) ref[4 * i] = uid
      const tx = index.begin()
      await transact(index, (one) => one.createTable({ ...INBOX, id: 'other', uidValidity: 9, uidNext: 10 }))
      const outcome = tx.appendRows('other', { count: 3, uid: 12, flags: FLAG_SEEN, columns: { ref, size: 7 } })
      assert.throws(() => tx.appendRows('other', { count: -1 }), RangeError)
      assert.equal(tx.appendRows('other', { count: 0 }).uids.size, 0)
      const last = tx.append('other', {})
      await tx.commit()
      assert.equal(outcome.uids.toString(), '12:14')
      assert.equal(last.uid, 15)
      const other = (await opened(index, 'other')).view
      await other.load(['ref', 'size'])
      assert.deepEqual(
        [0, 1, 2, 3].map((row) => [other.uid(row), other.flags(row), other.extension('ref')!.number(row)]),
        [
          [12, FLAG_SEEN, 2],
          [13, FLAG_SEEN, 1],
          [14, FLAG_SEEN, 2],
          [15, 0, 0],
        ],
      )
      assert.equal(other.bytes, 21)
      assert.deepEqual(await uses(index), [2, 3])
      const low = index.begin()
      low.appendRows('other', { count: 2, uid: 15 })
      await assert.rejects(low.commit(), { code: 'INDEX_CONFLICT' })
      const short = index.begin()
      short.appendRows('other', { count: 2, columns: { ref: new Uint8Array(7) } })
      await assert.rejects(short.commit(), RangeError)
    })
    test('copied by appendFrom keep flags, keywords and the columns that both tables have', async (index) => {
      await append(index, 4, { flags: FLAG_SEEN, keywords: ['k'], size: 5 })
      await transact(index, (tx) => tx.createTable({ ...INBOX, id: 'other', uidValidity: 9, uidNext: 10 }))
      const { view } = await opened(index, 'inbox')
      const tx = index.begin()
      const outcome = tx.appendFrom('other', view, Uint32Array.of(1, 3))
      assert.throws(() => tx.appendFrom('other', view, Uint32Array.of(3, 1)), RangeError)
      await tx.commit()
      assert.equal(outcome.uids.toString(), '10:11')
      const other = (await opened(index, 'other')).view
      await other.load(['ref'])
      assert.equal(other.flags(1), FLAG_SEEN)
      assert.deepEqual(
        other.keywordSets[other.keywordSet(0)]!.map((k) => other.keywords[k]),
        ['k'],
      )
      assert.equal(other.extension('ref')!.number(1), 4)
      assert.deepEqual(await uses(index), [1, 2, 1, 2])
      assert.equal(other.bytes, 10)
    })
  })

  describe('changes of flags', () => {
    test('say which rows are different now, and write nothing where none is', async (index) => {
      await append(index, 6)
      const tx = index.begin()
      const outcome = tx.changeFlags('inbox', UidSet.fromRanges([2, 4, 9, 10]), { add: FLAG_SEEN })
      await tx.commit()
      assert.equal(outcome.changed.toString(), '2:4')
      assert.equal(outcome.failed.toString(), '9:10')
      const before = index.info('inbox')!
      const again = index.begin()
      const none = again.changeFlags('inbox', UidSet.range(2, 4), { add: FLAG_SEEN, removeKeywords: ['absent'] })
      assert.deepEqual(await again.commit(), { frame: 0 })
      assert.equal(none.changed.toString(), '')
      assert.deepEqual(index.info('inbox'), before)
    })
    test('give the rows, and no others, the next modseq of the table', async (index) => {
      await append(index, 3)
      await transact(index, (tx) => tx.changeFlags('inbox', UidSet.of(2), { add: FLAG_ANSWERED }))
      const { view } = await opened(index, 'inbox')
      assert.deepEqual([view.modSeq(0), view.modSeq(1), view.modSeq(2)], [2, 3, 2])
      assert.equal(view.highestModSeq, 3)
      // The other table is another count.
      assert.equal(index.info('box')!.highestModSeq, 2)
    })
    test('with replace leave exactly what is named', async (index) => {
      await append(index, 1, { flags: FLAG_SEEN | FLAG_FLAGGED, keywords: ['a', 'b'] })
      await transact(index, (tx) =>
        tx.changeFlags('inbox', UidSet.of(1), { replace: true, add: FLAG_ANSWERED, addKeywords: ['B', 'c'] }),
      )
      const { view } = await opened(index, 'inbox')
      assert.equal(view.flags(0), FLAG_ANSWERED)
      assert.deepEqual(
        view.keywordSets[view.keywordSet(0)]!.map((k) => view.keywords[k]),
        ['b', 'c'],
      )
    })
    test('with unchangedSince are decided under the lock, row by row', async (index, place) => {
      await append(index, 3)
      await using other = await place.open()
      const modSeq = index.info('inbox')!.highestModSeq
      const tx = index.begin()
      const outcome = tx.changeFlags('inbox', UidSet.range(1, 3), { add: FLAG_SEEN }, { unchangedSince: modSeq })
      await transact(other, (foreign) => {
        foreign.changeFlags('inbox', UidSet.of(2), { add: FLAG_FLAGGED })
        foreign.expunge('inbox', UidSet.of(3))
      })
      await tx.commit()
      assert.equal(outcome.changed.toString(), '1')
      assert.equal(outcome.failed.toString(), '2:3')
    })
    test('may be lazy: shown at once, there when the index is opened again', async (index, place) => {
      await append(index, 1)
      for (const add of [FLAG_SEEN, FLAG_FLAGGED, FLAG_ANSWERED]) {
        const tx = index.begin()
        tx.changeFlags('inbox', UidSet.of(1), { add })
        await tx.commit({ durability: 'lazy' })
      }
      const { view } = await opened(index, 'inbox')
      assert.equal(view.flags(0), FLAG_SEEN | FLAG_FLAGGED | FLAG_ANSWERED)
      assert.equal(view.highestModSeq, 5)
      await using other = await place.open()
      assert.deepEqual(await described(other), await described(index))
    })
  })

  describe('expunge', () => {
    test('removes rows, remembers when, and never gives their UIDs again', async (index) => {
      await append(index, 5)
      const since = index.info('inbox')!.highestModSeq
      const tx = index.begin()
      const outcome = tx.expunge('inbox', UidSet.fromRanges([4, 9]))
      await tx.commit()
      assert.equal(outcome.expunged.toString(), '4:5')
      const table = await opened(index, 'inbox')
      assert.equal(table.expungedSince(since)?.toString(), '4:5')
      assert.equal(table.expungedSince(table.view.highestModSeq)?.toString(), '')
      await append(index, 1)
      assert.equal(table.view.uid(3), 6)
      assert.equal(table.expungedSince(0)?.toString(), '4:5')
      assert.deepEqual(await uses(index), [1, 1, 1, 0, 0, 1])
    })
    test('takes only deleted rows, only unused rows, or all or nothing, as asked', async (index) => {
      await append(index, 3, { flags: FLAG_DELETED })
      await append(index, 2)
      const tx = index.begin()
      const outcome = tx.expunge('inbox', UidSet.fromRanges([2, 5]), { onlyDeleted: true })
      await tx.commit()
      assert.equal(outcome.expunged.toString(), '2:3')
      const unused = index.begin()
      const dropped = unused.expunge('box', UidSet.range(1, 5), { onlyZero: 'uses' })
      await unused.commit()
      assert.equal(dropped.expunged.toString(), '2:3')
      await refuses(
        transact(index, (all) => all.expunge('inbox', UidSet.range(1, 2), { mustExist: true })),
        'INDEX_CONFLICT',
      )
      assert.equal(index.info('inbox')!.count, 3)
      await refuses(
        transact(index, (all) =>
          all.expunge('box', UidSet.fromRanges([1, 1, 4, 5]), { onlyZero: 'uses', mustExist: true }),
        ),
        'INDEX_CONFLICT',
      )
      assert.equal(index.info('box')!.count, 3)
    })
    test('rows that a transaction expects are all there, or nothing happens', async (index) => {
      await append(index, 5)
      await transact(index, (tx) => tx.expunge('inbox', UidSet.of(3)))
      await transact(index, (tx) => {
        tx.expectRows('inbox', UidSet.fromRanges([1, 2, 4, 5]))
        tx.expectRows('inbox', UidSet.empty)
        tx.append('inbox', {})
      })
      for (const missing of ['3', '2:4', '1:5', '5:9', '900'])
        await refuses(
          transact(index, (tx) => {
            tx.append('inbox', {})
            tx.expectRows('inbox', UidSet.parse(missing))
          }),
          'INDEX_CONFLICT',
        )
      await append(index, CHUNK_ROWS)
      await transact(index, (tx) => tx.expectRows('inbox', UidSet.range(4, CHUNK_ROWS + 6)))
      assert.equal(index.info('inbox')!.count, CHUNK_ROWS + 5)
    })
    test('of everything leaves a table that goes on', async (index) => {
      await append(index, CHUNK_ROWS + 5)
      await transact(index, (tx) => tx.expunge('inbox', UidSet.range(1, 2 ** 32 - 1)))
      const table = await opened(index, 'inbox')
      assert.deepEqual([table.view.count, table.view.unseen, table.view.bytes], [0, 0, 0])
      await append(index, 1)
      assert.equal(table.view.uid(0), CHUNK_ROWS + 6)
    })
  })

  describe('columns and values', () => {
    test('are set, and counted where they count', async (index) => {
      await append(index, 2)
      await transact(index, (tx) => {
        tx.setColumn('inbox', 'ref', 1, 2)
        tx.setColumn('inbox', 'size', 2, 40)
        tx.increment('box', 'size', 1, 100)
      })
      assert.deepEqual(await uses(index), [0, 2])
      assert.equal(index.info('inbox')!.bytes, 40)
      assert.equal(index.info('box')!.bytes, 100)
      assert.equal(index.info('box')!.highestModSeq, 2)
      await refuses(
        transact(index, (tx) => tx.setColumn('inbox', 'ref', 1, 99)),
        'INDEX_CONFLICT',
      )
      await refuses(
        transact(index, (tx) => tx.setColumn('inbox', 'size', 9, 1)),
        'INDEX_CONFLICT',
      )
      await refuses(
        transact(index, (tx) => tx.increment('box', 'size', 1, -101)),
        'INDEX_LIMIT',
      )
      assert.deepEqual(await uses(index), [0, 2])
    })
    test('a row appended in the same transaction stands for its UID, in both directions', async (index) => {
      await append(index, 2)
      await transact(index, (tx) => {
        const message = tx.append('box', {})
        const row = tx.append('inbox', { columns: { ref: message } })
        tx.setColumn('box', 'size', message, row)
      })
      const [inbox, box] = [await opened(index, 'inbox'), await opened(index, 'box')]
      const last = box.view.count - 1
      assert.equal(inbox.view.extension('ref')!.number(2), box.view.uid(last))
      assert.equal(box.view.extension('size')!.number(last), inbox.view.uid(2))
      assert.deepEqual((await uses(index)).at(-1), 1)
      await assert.rejects(
        transact(index, (tx) => tx.setColumn('box', 'size', { uid: 0 }, 1)),
        TypeError,
      )
    })
    test('a row that names one that is gone is INDEX_CONFLICT, whoever was first', async (index, place) => {
      await append(index, 1)
      await using other = await place.open()
      const tx = index.begin()
      tx.append('inbox', { columns: { ref: 1 } })
      await transact(other, (foreign) => {
        foreign.expunge('inbox', UidSet.of(1))
        foreign.expunge('box', UidSet.of(1))
      })
      await refuses(tx.commit(), 'INDEX_CONFLICT')
      assert.equal(index.info('inbox')!.count, 0)
    })
    test('values are set, removed, expected and limited', async (index) => {
      await transact(index, (tx) => tx.setValue('inbox', 'é', Uint8Array.of(7)))
      await transact(index, (tx) => {
        tx.expectValue('inbox', 'é', Uint8Array.of(7))
        tx.expectValue('inbox', 'absent', undefined)
        tx.setValue('inbox', 'é', undefined)
        tx.setValue('inbox', 'b', new Uint8Array(VALUE_MAX))
      })
      await refuses(
        transact(index, (tx) => {
          tx.append('inbox', {})
          tx.expectValue('inbox', 'é', Uint8Array.of(7))
        }),
        'INDEX_CONFLICT',
      )
      const { view } = await opened(index, 'inbox')
      assert.deepEqual([...view.values.keys()], ['b'])
      assert.equal(view.count, 0)
      await using tx = index.begin()
      assert.throws(() => tx.setValue('inbox', 'c', new Uint8Array(VALUE_MAX + 1)), { code: 'INDEX_LIMIT' })
    })
  })

  describe('transactions', () => {
    test('change all their tables or none', async (index) => {
      const before = await described(index)
      await refuses(
        transact(index, (tx) => {
          tx.append('box', {})
          tx.setValue('inbox', 'a', Uint8Array.of(1))
          tx.append('inbox', { columns: { ref: 77 } })
        }),
        'INDEX_CONFLICT',
      )
      assert.deepEqual(await described(index), before)
    })
    test('disposed without commit did nothing, and are committed once', async (index) => {
      {
        await using tx = index.begin()
        tx.append('box', {})
      }
      assert.equal(index.info('box')!.count, 0)
      const tx = index.begin()
      tx.append('box', {})
      await tx.commit()
      await assert.rejects(tx.commit(), TypeError)
      assert.throws(() => tx.append('box', {}), TypeError)
    })
    test('that wait together are decided in order, and one that is refused does not harm the others', async (index) => {
      const results = await Promise.allSettled(
        Array.from({ length: 20 }, async (_, n) => {
          const tx = index.begin()
          tx.expectValue(
            'inbox',
            'turn',
            n === 7 ? Uint8Array.of(99) : n === 0 ? undefined : Uint8Array.of(n === 8 ? 6 : n - 1),
          )
          tx.setValue('inbox', 'turn', Uint8Array.of(n))
          return tx.commit()
        }),
      )
      assert.deepEqual(
        results.map((result) => result.status === 'rejected'),
        results.map((_, n) => n === 7),
      )
      const frames = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.frame] : []))
      assert.deepEqual(
        frames,
        frames.toSorted((a, b) => a - b),
      )
      assert.deepEqual([...(await opened(index, 'inbox')).view.values.get('turn')!], [19])
    })
    test('larger than a frame are whole all the same', async (index, place) => {
      const rows = 40_000
      const tx = index.begin()
      for (let n = 0; n < 300; n++) tx.setValue('box', `k${n}`, new Uint8Array(VALUE_MAX).fill(n))
      for (let n = 0; n < rows; n++) tx.append('inbox', { columns: { guid: new Uint8Array(16).fill(n), size: n } })
      await tx.commit()
      await using other = await place.open()
      const { view } = await opened(other, 'inbox')
      assert.equal(view.count, rows)
      await view.load(['guid'])
      assert.equal(view.extension('guid')!.value(rows - 1)[3], (rows - 1) & 255)
      assert.equal((await opened(other, 'box')).view.values.get('k299')![5], 299 & 255)
    })
  })

  describe('views', () => {
    test('never change, whatever happens to the table', async (index) => {
      await append(index, CHUNK_ROWS + 3, { size: 1 })
      const { view } = await opened(index, 'inbox')
      const { flags } = view.chunks[0]!
      const first = flags[0]
      await transact(index, (tx) => {
        tx.changeFlags('inbox', UidSet.range(1, CHUNK_ROWS), { add: FLAG_SEEN, addKeywords: ['x'] })
        tx.expunge('inbox', UidSet.of(1))
        tx.setColumn('inbox', 'size', 2, 500)
      })
      await append(index, 5)
      assert.equal(view.count, CHUNK_ROWS + 3)
      assert.equal(flags[0], first)
      assert.equal(view.uid(0), 1)
      await view.load(['size'])
      assert.equal(view.extension('size')!.number(1), 1)
      assert.deepEqual(view.keywords, [])
    })
    test('differ by what changesBetween says', async (index) => {
      const table = await opened(index, 'inbox')
      await append(index, CHUNK_ROWS * 3)
      const from = table.view
      await transact(index, (tx) => {
        tx.changeFlags('inbox', UidSet.of(5, CHUNK_ROWS + 1), { add: FLAG_SEEN })
        tx.expunge('inbox', UidSet.fromRanges([7, 8, 3000, 3000]))
      })
      await append(index, 2)
      const changes = changesBetween(from, table.view)
      assert.equal(changes.changed.toString(), `5,${CHUNK_ROWS + 1}`)
      assert.equal(changes.expunged.toString(), '7:8,3000')
      assert.equal(changes.appended.toString(), `${CHUNK_ROWS * 3 + 1}:${CHUNK_ROWS * 3 + 2}`)
      const none = changesBetween(table.view, table.view)
      assert.ok(none.appended.isEmpty && none.expunged.isEmpty && none.changed.isEmpty)
    })
  })

  describe('several handles', () => {
    test('see what others committed after refresh, or when they commit', async (index, place) => {
      await using other = await place.open()
      const there = await opened(other, 'inbox')
      await append(index, 2)
      await other.refresh()
      assert.equal(there.view.count, 2)
      await append(index, 1)
      const rows = await append(other, 1)
      assert.deepEqual(rows, [4])
      await index.refresh()
      assert.deepEqual(await described(other), await described(index))
    })
    test('commit at once, and every commit counts', async (index, place) => {
      await using other = await place.open()
      await using third = await place.open()
      const uids = await Promise.all(
        [index, other, third].flatMap((handle) =>
          Array.from({ length: 15 }, async () => (await append(handle, 1))[0]!),
        ),
      )
      assert.equal(new Set(uids).size, 45)
      for (const handle of [index, other, third]) {
        await handle.refresh()
        assert.equal(handle.info('inbox')!.count, 45)
      }
    })
    test('checkpoint in turn, and go on with what they had open', async (index, place) => {
      await using other = await place.open()
      const there = await opened(other, 'inbox')
      for (let n = 0; n < 4; n++) {
        await append(index, 3)
        await index.checkpoint()
        await append(other, 2)
        await other.checkpoint()
      }
      await index.refresh()
      assert.equal(there.view.count, 20)
      assert.deepEqual(await described(index), await described(other))
      await using fresh = await place.open()
      assert.deepEqual(await described(fresh), await described(index))
    })
  })

  describe('watchers', () => {
    test('are told after the view was replaced, until they are disposed', async (index) => {
      const table = await opened(index, 'inbox')
      const seen: string[] = []
      const onTable = table.watch(() => seen.push(`inbox ${table.view.count}`))
      using _onIndex = index.watch((ids) => seen.push([...ids].sort().join('+')))
      await append(index, 1)
      await transact(index, (tx) => tx.append('box', {}))
      onTable[Symbol.dispose]()
      await append(index, 1)
      assert.deepEqual(seen, ['inbox 1', 'box+inbox', 'box', 'box+inbox'])
    })
  })

  describe('against the model', () => {
    const runs = subject.modelRuns ?? 5
    for (let run = 1; run <= runs; run++)
      it(`a random walk does what the model does (seed ${run})`, async () => {
        await using place = await subject.create()
        await walk(place, run, subject.modelSteps ?? 60)
      })
  })
}

/** Random commits through two handles, closed and opened now and then; the same for the same seed. */
async function walk(place: IndexPlace, seed: number, steps: number): Promise<void> {
  let state = seed
  const random = (below: number): number => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0
    return ((state ^ (state >>> 13)) >>> 0) % below
  }
  const model = new Model()
  const handles = [await place.open({ create: true, segmentBytes: 5000 }), await place.open()]
  const commit = async (index: Index, changes: readonly ModelChange[]): Promise<void> => {
    await index.refresh()
    const tables = new Map<string, Table>()
    for (const change of changes)
      if (change.kind === 'append-from' && model.tables.has(change.source))
        tables.set(change.source, await opened(index, change.source))
    const tx = index.begin()
    const outcomes = request(tx, changes, (id) => tables.get(id)!)
    const expected = model.commit(changes)
    try {
      await tx.commit({ durability: random(3) === 0 ? 'lazy' : 'flushed' })
    } catch (error) {
      assert.deepEqual({ code: (error as { code: IndexErrorCode }).code }, expected)
      return
    }
    assert.deepEqual({ outcomes: outcomes() }, expected)
  }
  await commit(handles[0]!, [
    { kind: 'create', spec: BOX },
    { kind: 'create', spec: INBOX },
  ])
  for (let step = 0; step < steps; step++) {
    const at = random(2)
    const uid = (): number => 1 + random(model.tables.get('inbox')!.uidNext)
    const uids = UidSet.of(uid(), uid(), uid()).union(UidSet.range(random(20) + 1, random(20) + 21))
    const changes: ModelChange[] = []
    for (let n = 1 + random(3); n > 0; n--) {
      const boxNext = model.tables.get('box')!.uidNext
      const columns = { ref: random(boxNext + 1), guid: new Uint8Array(16).fill(step), size: step }
      const choices: (() => ModelChange)[] = [
        () => ({ kind: 'append', table: 'box', flags: 0, keywords: [], columns: { size: step }, count: 1 + random(4) }),
        () => ({
          kind: 'append',
          table: 'inbox',
          flags: random(32),
          keywords: random(2) === 0 ? [] : [`k${random(3)}`],
          columns,
        }),
        () => ({
          kind: 'flags',
          table: 'inbox',
          uids,
          add: random(32),
          remove: 0,
          addKeywords: random(2) === 0 ? [] : [`K${random(3)}`],
          removeKeywords: random(2) === 0 ? [] : [`k${random(3)}`],
          replace: random(4) === 0,
        }),
        () => ({ kind: 'expunge', table: 'inbox', uids: UidSet.of(uid(), uid()), onlyDeleted: random(2) === 0 }),
        () => ({ kind: 'expunge', table: 'box', uids: UidSet.range(1, 1 + random(5)), onlyZero: 'uses' }),
        () => ({ kind: 'column', table: 'inbox', column: 'ref', uid: uid(), value: random(boxNext) }),
        () => ({
          kind: 'value',
          table: 'inbox',
          key: `v${random(3)}`,
          value: random(3) === 0 ? undefined : Uint8Array.of(step),
        }),
      ]
      changes.push(choices[random(choices.length)]!())
    }
    await commit(handles[at]!, changes)
    if (random(10) === 0) await handles[at]!.checkpoint()
    if (random(10) === 0) {
      await handles[at]![Symbol.asyncDispose]()
      handles[at] = await place.open()
    }
  }
  for (const index of handles) {
    await index.refresh()
    for (const [id, table] of model.tables) {
      const expected = describeModel(table)
      assert.deepEqual(describeView(await opened(index, id), table.spec), expected)
      assert.deepEqual(countersOf(index.info(id)!), countersOf(expected as never))
      assert.equal(expungedFault(table, 1, (await opened(index, id)).expungedSince(1)), undefined)
    }
    await index[Symbol.asyncDispose]()
  }
}

async function transact(index: Index, body: (tx: IndexTransaction) => void): Promise<void> {
  await using tx = index.begin()
  body(tx)
  await tx.commit()
}

/** Appends messages to `inbox`, each with a row of its own in `box`. Returns their UIDs. */
async function append(
  index: Index,
  count: number,
  { flags = 0, keywords = [], size = 0 }: { flags?: number; keywords?: readonly string[]; size?: number } = {},
): Promise<number[]> {
  const tx = index.begin()
  const rows = Array.from({ length: count }, () =>
    tx.append('inbox', { flags, keywords, columns: { ref: tx.append('box', {}), size } }),
  )
  await tx.commit()
  return rows.map((row) => row.uid)
}

async function opened(index: Index, id: string): Promise<Table> {
  const table = await index.open(id)
  assert.ok(table !== undefined, `table ${id}`)
  return table
}

async function uses(index: Index): Promise<number[]> {
  const { view } = await opened(index, 'box')
  await view.load(['uses'])
  const column = view.extension('uses')!
  return Array.from({ length: view.count }, (_, row) => column.number(row))
}

/** Everything that the tables of these tests say. */
async function described(index: Index): Promise<unknown> {
  const all: unknown[] = []
  for (const spec of [BOX, INBOX]) {
    if (index.info(spec.id) === undefined) continue
    const table = await opened(index, spec.id)
    await table.view.load(spec.columns.map((column) => column.name))
    all.push(describeView(table, spec), countersOf(index.info(spec.id)!))
  }
  return all
}

async function refuses(promise: Promise<unknown>, code: IndexErrorCode): Promise<void> {
  await assert.rejects(promise, { name: 'IndexError', code })
}
