import { readFileSync } from 'node:fs'
import { parseHex } from '@mailstead/bytes'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { putNumber } from './binary.ts'
import { Faults } from './fault.ts'
import * as log from './log.ts'
import { MailIndex } from './mail-index.ts'
import { type ReadIndex, readIndex } from './read-index.ts'
import { Replay } from './replay.ts'
import { readSnapshot } from './snapshot.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 1_000_000 : depth === 'ci' ? 3000 : 150

/** Numbers in the byte order of one host. */
class Writer {
  readonly little: boolean
  readonly bytes: number[] = []

  constructor(little: boolean) {
    this.little = little
  }
  number(size: number, value: number): this {
    const out = new Uint8Array(size)
    putNumber(out, 0, Math.min(size, 6), value, true)
    this.bytes.push(...(this.little ? out : out.reverse()))
    return this
  }
  u32(...values: readonly number[]): this {
    for (const value of values) this.number(4, value)
    return this
  }
  raw(bytes: Iterable<number>): this {
    this.bytes.push(...bytes)
    return this
  }
  pad(to: number): this {
    while (this.bytes.length % to !== 0) this.bytes.push(0)
    return this
  }
}

const INDEX_ID = 0x6b000001

/** A log, built record by record. */
class LogWriter {
  readonly out: Writer

  constructor({ little = true, seq = 2, prevSeq = 0, prevOffset = 0, headerSize = 40, modSeq = 1 } = {}) {
    this.out = new Writer(little).raw([1, headerSize < 40 ? 0 : 3])
    this.out.number(2, headerSize).u32(INDEX_ID, seq, prevSeq, prevOffset, 0x6b000002)
    if (headerSize >= 32) this.out.number(8, modSeq)
    if (headerSize >= 40) this.out.raw([little ? 1 : 0, 0, 0, 0, 0, 0, 0, 0])
  }
  get size(): number {
    return this.out.bytes.length
  }
  record(type: number, write: (out: Writer) => void, external = true): this {
    const payload = new Writer(this.out.little)
    write(payload)
    payload.pad(4)
    const size = payload.bytes.length + log.RECORD_HEAD
    this.out.raw(packed(size))
    const protection = type === log.EXPUNGE || type === log.EXPUNGE_GUID ? 0xcd90 : 0
    this.out.u32((type | protection | (external ? log.EXTERNAL : 0)) >>> 0).raw(payload.bytes)
    return this
  }
  append(...messages: readonly (readonly [number, number])[]): this {
    return this.record(log.APPEND, (out) => {
      for (const [uid, flags] of messages) out.u32(uid).raw([flags, 0, 0, 0])
    })
  }
  flags(first: number, last: number, add: number, remove: number): this {
    return this.record(log.FLAG_UPDATE, (out) => out.u32(first, last).raw([add, remove, 0, 0]), false)
  }
  keyword(name: string, on: boolean, first: number, last: number): this {
    return this.record(log.KEYWORD_UPDATE, (out) =>
      out
        .raw([on ? 0 : 1, 0])
        .number(2, Buffer.byteLength(name))
        .raw(Buffer.from(name))
        .pad(4)
        .u32(first, last),
    )
  }
  expunge(first: number, last: number): this {
    return this.record(log.EXPUNGE, (out) => out.u32(first, last))
  }
  header(at: number, value: number): this {
    return this.record(log.HEADER_UPDATE, (out) => out.number(2, at).number(2, 4).u32(value))
  }
  intro(name: string | number, recordSize: number, { resetId = 0, headerSize = 0 } = {}): this {
    const text = typeof name === 'string' ? name : ''
    return this.record(log.EXT_INTRO, (out) =>
      out
        .u32(typeof name === 'number' ? name : 0xffff_ffff, resetId, headerSize)
        .number(2, recordSize)
        .number(2, 4)
        .number(2, 1)
        .number(2, text.length)
        .raw(Buffer.from(text)),
    )
  }
  data(uid: number, bytes: Iterable<number>): this {
    return this.record(log.EXT_REC_UPDATE, (out) => out.u32(uid).raw(bytes).pad(4))
  }
  done(): Uint8Array {
    return Uint8Array.from(this.out.bytes)
  }
}

function packed(value: number): readonly number[] {
  const groups = value / 4
  return [21, 14, 7, 0].map((shift) => 0x80 | ((groups >>> shift) & 0x7f))
}

interface SnapshotModel {
  readonly little?: boolean
  readonly messages: readonly (readonly [uid: number, flags: number, guid: number])[]
  readonly seq?: number
  readonly head: number
  readonly tail?: number
  readonly baseSize?: number
}

/** Sixteen bytes. */
function bytesOf(value: number): Uint8Array {
  return new Uint8Array(16).fill(value)
}

/** A snapshot with one extension, `guid`. */
function snapshotOf({
  little = true,
  messages,
  seq = 2,
  head,
  tail = head,
  baseSize = 120,
}: SnapshotModel): Uint8Array {
  const extension = new Writer(little)
    .u32(0, 0)
    .number(2, 5)
    .number(2, 16)
    .number(2, 1)
    .number(2, 4)
    .raw(Buffer.from('guid'))
  extension.pad(8)
  const headerSize = baseSize + extension.bytes.length
  const out = new Writer(little)
    .raw([7, 3])
    .number(2, baseSize)
    .u32(headerSize, 24)
    .raw([little ? 1 : 0, 0, 0, 0])
  const next = messages.reduce((most, [uid]) => Math.max(most, uid + 1), 1)
  out.u32(INDEX_ID, 0, 1234, next, messages.length, 0, 0, 0, 0, 0, 0, seq, tail, head)
  while (out.bytes.length < baseSize) out.bytes.push(0)
  out.raw(extension.bytes)
  for (const [uid, flags, guid] of messages)
    out
      .u32(uid)
      .raw([flags, ...bytesOf(guid)])
      .raw([0, 0, 0])
  return Uint8Array.from(out.bytes)
}

async function read(
  files: Readonly<Record<string, Uint8Array>>,
): Promise<{ readonly read: ReadIndex | undefined; readonly faults: Faults }> {
  const fs = memoryFs()
  for (const [name, bytes] of Object.entries(files)) await fs.writeFile(name, bytes)
  const faults = new Faults()
  return { read: await readIndex({ fs, path: '', shown: '' }, 'i', faults, 'Box'), faults }
}

function rowsOf({ index }: ReadIndex): readonly unknown[] {
  const rows: unknown[] = []
  for (let row = 0; row < index.count; row++)
    if (index.gone[row] === 0)
      rows.push([index.uids[row], index.flags[row], [...index.keywordsOf(row)].sort().join(' ')])
  return rows
}

describe('an index of Dovecot', () => {
  for (const little of [true, false])
    test(`is what its log says, written by a ${little ? 'little' : 'big'}-endian host`, async () => {
      const written = new LogWriter({ little })
        .header(24, 4321)
        .append([1, 0], [2, 8], [5, 1])
        .flags(2, 5, 0x10, 0x08)
        .keyword('Work', true, 1, 2)
        .keyword('work', false, 2, 2)
        .keyword('later', true, 5, 9)
        .expunge(1, 1)
        .done()
      const { read: found, faults } = await read({ 'i.log': written })
      expect(rowsOf(found!)).toEqual([
        [2, 0x10, ''],
        [5, 0x11, 'later'],
      ])
      expect([found!.index.headerField(24), found!.index.headerField(28), found!.highestModSeq]).toEqual([4321, 6, 7])
      expect(faults.list).toEqual([])
    })

  test('gives each message the modseq of what changed it last, once modseqs are kept', async () => {
    const written = new LogWriter()
      .append([1, 0], [2, 0])
      .flags(1, 1, 1, 0)
      .intro('modseq', 8)
      .append([3, 0])
      .flags(2, 2, 0x40, 0)
      .flags(1, 1, 2, 0)
      .record(log.MODSEQ_UPDATE, (out) => out.u32(2, 100, 0))
      .done()
    const { index, highestModSeq } = (await read({ 'i.log': written })).read!
    // The change of Dovecot's own flag counts for nothing.
    expect([...index.modSeqs.subarray(0, 3), highestModSeq]).toEqual([5, 100, 4, 100])
  })

  test('is the snapshot and the log after its head', async () => {
    const before = new LogWriter().append([1, 0], [2, 0], [3, 0])
    const head = before.size
    const whole = before.flags(2, 3, 8, 0).expunge(1, 1).done()
    const snapshot = snapshotOf({
      messages: [
        [1, 0, 7],
        [2, 0, 8],
        [3, 0, 9],
      ],
      head,
      baseSize: 128,
    })
    const { read: found, faults } = await read({ i: snapshot, 'i.log': whole })
    expect(rowsOf(found!)).toEqual([
      [2, 8, ''],
      [3, 8, ''],
    ])
    expect(found!.index.data(found!.index.extension('guid')!, 2)[0]).toBe(9)
    expect(faults.list.map((fault) => fault.message)).toEqual(['UIDVALIDITY is 1234 in the snapshot, 0 in the log'])
  })

  test('fulfils the wish to expunge that nobody had fulfilled before the snapshot', async () => {
    const before = new LogWriter().header(24, 1234).append([1, 0], [2, 0])
    const tail = before.size
    before.record(log.EXPUNGE, (out) => out.u32(1, 1), false)
    const snapshot = snapshotOf({
      messages: [
        [1, 0, 7],
        [2, 0, 8],
      ],
      head: before.size,
      tail,
    })
    expect(rowsOf((await read({ i: snapshot, 'i.log': before.done() })).read!)).toEqual([[2, 0, '']])
  })

  test('ignores the wish to expunge another message', async () => {
    const written = new LogWriter()
      .append([1, 0], [2, 0])
      .intro('guid', 16)
      .data(1, bytesOf(7))
      .record(log.EXPUNGE_GUID, (out) => out.u32(1).raw(bytesOf(9)), false)
      .record(log.EXPUNGE_GUID, (out) => out.u32(2).raw(bytesOf(0)), false)
      .done()
    expect(rowsOf((await read({ 'i.log': written })).read!)).toEqual([[1, 0, '']])
  })

  test('goes on from an older log to the next', async () => {
    const older = new LogWriter({ headerSize: 24 }).header(24, 1234).append([1, 0], [2, 0])
    const head = older.size
    older.flags(1, 1, 1, 0)
    const next = new LogWriter({ seq: 3, prevSeq: 2, prevOffset: older.size, modSeq: 9 }).append([3, 4]).done()
    const files = { 'i.log.2': older.done(), 'i.log': next }
    const snapshot = snapshotOf({
      messages: [
        [1, 0, 7],
        [2, 0, 8],
      ],
      head,
    })
    const { read: found, faults } = await read({ ...files, i: snapshot })
    const rows = [
      [1, 1, ''],
      [2, 0, ''],
      [3, 4, ''],
    ]
    expect([rowsOf(found!), found!.highestModSeq]).toEqual([rows, 10])
    expect(rowsOf((await read(files)).read!)).toEqual(rows)
    expect(faults.list).toEqual([])
    const lost = await read({ i: snapshot, 'i.log': next })
    expect([rowsOf(lost.read!), lost.read!.current]).toEqual([
      [
        [1, 0, ''],
        [2, 0, ''],
        [3, 4, ''],
      ],
      false,
    ])
    expect(lost.faults.list).toMatchObject([{ kind: 'log-lost', file: 'i.log', mailbox: 'Box' }])
  })

  test('is the backup and the log if the snapshot is damaged', async () => {
    const older = new LogWriter({ seq: 4, prevSeq: 3 }).append([3, 1]).flags(1, 3, 8, 0).done()
    const backup = snapshotOf({
      messages: [
        [1, 0, 7],
        [2, 0, 8],
      ],
      seq: 4,
      head: 40,
    })
    const snapshot = snapshotOf({
      messages: [
        [1, 8, 7],
        [2, 8, 8],
        [3, 9, 0],
      ],
      seq: 4,
      head: older.length,
    })
    const damaged = Uint8Array.from(snapshot)
    damaged[4] = 0xff
    const { read: found, faults } = await read({ i: damaged, 'i.backup': backup, 'i.log': older })
    expect(rowsOf(found!)).toEqual(rowsOf((await read({ i: snapshot, 'i.log': older })).read!))
    expect(faults.list.map((fault) => fault.kind)).toEqual(['index-damaged', 'index-lost'])
    // Nothing but a snapshot with one bad record: all others are read.
    const record = Uint8Array.from(snapshot)
    record[record.length - 2 * 24 + 3] = 0x10
    const alone = await read({ i: record })
    expect(rowsOf(alone.read!)).toEqual([
      [1, 8, ''],
      [3, 9, ''],
    ])
    expect(alone.faults.list.map((fault) => fault.kind)).toEqual([
      'index-damaged',
      'index-damaged',
      'index-lost',
      'log-lost',
    ])
  })

  test('names what a snapshot and its log say differently', async () => {
    const written = new LogWriter().header(24, 1234).append([1, 0], [2, 8])
    const snapshot = snapshotOf({
      messages: [
        [1, 2, 0],
        [3, 8, 0],
      ],
      head: written.size,
    })
    const { faults } = await read({ i: snapshot, 'i.log': written.done() })
    expect(faults.list.map(({ uid, message }) => [uid, message])).toEqual([
      [undefined, 'UIDNEXT is 4 in the snapshot, 3 in the log'],
      [1, 'flags are 2 in the snapshot, 0 in the log'],
      [2, 'the log has this message, the snapshot has not'],
      [3, 'the snapshot has this message, the log has not'],
    ])
  })
})

describe('a log of Dovecot', () => {
  const group = (size: number) => (out: Writer) => out.u32(size)

  test('has no transaction that was not written whole', async () => {
    const first = new LogWriter().append([1, 0])
    const { size } = first
    first
      .record(log.BOUNDARY, group(12 + 16 + 20))
      .append([2, 0])
      .flags(1, 1, 8, 0)
    const whole = first.done()
    expect(rowsOf((await read({ 'i.log': whole })).read!)).toEqual([
      [1, 8, ''],
      [2, 0, ''],
    ])
    for (let cut = size + 1; cut < whole.length; cut++) {
      const { read: found, faults } = await read({ 'i.log': whole.subarray(0, cut) })
      expect([rowsOf(found!), faults.list.map((fault) => [fault.kind, fault.offset])]).toEqual([
        [[1, 0, '']],
        [['log-torn', size]],
      ])
    }
  })

  test('ends where something is that is no record', async () => {
    const written = new LogWriter().append([1, 0])
    const at = written.size
    const bytes = written.append([2, 0]).append([3, 0]).done()
    for (const [offset, value] of [
      [at, 0x01],
      [at + 4, 0xff],
      [at + 6, 0x01],
    ] as const) {
      const changed = Uint8Array.from(bytes)
      changed[offset] = value
      const { read: found, faults } = await read({ 'i.log': changed })
      expect(rowsOf(found!)).toEqual([[1, 0, '']])
      expect(faults.list).toMatchObject([{ kind: 'log-damaged', file: 'i.log', offset: at, mailbox: 'Box' }])
    }
  })

  test('counts up and down, resets, and changes headers by small and by large offsets', () => {
    const written = new LogWriter()
      .append([1, 0], [2, 0])
      .intro('ref', 2)
      .data(1, [5, 0])
      .record(log.EXT_ATOMIC_INC, (out) => out.u32(1, 0xffff_fffe).u32(2, 1))
      .intro('map', 12, { headerSize: 8 })
      .record(log.EXT_HDR_UPDATE, (out) => out.number(2, 2).number(2, 3).raw([1, 2, 3]))
      .record(log.EXT_HDR_UPDATE32, (out) => out.u32(6, 1).raw([9]))
      .intro('cache', 4)
      .record(log.EXT_RESET, (out) => out.u32(77).raw([0, 0, 0, 0]))
      .data(2, [1, 2, 3, 4])
      .intro(2, 4, { resetId: 76 })
      .data(2, [6, 6, 6, 6])
      .intro(2, 4, { resetId: 77 })
      .data(1, [7, 7, 7, 7])
    const bytes = written.done()
    const header = log.readLogHeader(bytes)!
    const index = new MailIndex(true)
    const bad: string[] = []
    const replay = new Replay(index, (message) => bad.push(message))
    replay.begin(bytes, header)
    expect(log.walkLog(bytes, header, header.headerSize, (record) => replay.apply(record, 'all')).state).toBe('clean')
    const ref = index.extension('ref')!
    expect([...index.data(ref, 0), ...index.data(ref, 1)]).toEqual([3, 0, 1, 0])
    expect([...index.extension('map')!.header]).toEqual([0, 0, 1, 2, 3, 0, 9])
    const cache = index.extension('cache')!
    expect([cache.resetId, ...index.data(cache, 0), ...index.data(cache, 1)]).toEqual([77, 7, 7, 7, 7, 1, 2, 3, 4])
    expect(bad).toEqual([])
  })

  test('makes the same index as a model, whatever happens', async () => {
    const operation = fc.oneof(
      fc.record({
        type: fc.constant('append' as const),
        gap: fc.integer({ min: 1, max: 3 }),
        flags: fc.integer({ min: 0, max: 31 }),
      }),
      fc.record({
        type: fc.constant('flags' as const),
        first: fc.nat(30),
        more: fc.nat(9),
        add: fc.nat(31),
        remove: fc.nat(31),
      }),
      fc.record({
        type: fc.constant('keyword' as const),
        name: fc.constantFrom('a', 'B', '$c', 'd9', 'e', 'f', 'g', 'h', 'i'),
        on: fc.boolean(),
        first: fc.nat(30),
        more: fc.nat(9),
      }),
      fc.record({ type: fc.constant('expunge' as const), first: fc.nat(30), more: fc.nat(2) }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 40 }), fc.boolean(), async (operations, little) => {
        const model = new Map<number, { flags: number; readonly keywords: Set<string> }>()
        const written = new LogWriter({ little }).header(24, 1234)
        let next = 1
        for (const one of operations) {
          if (one.type === 'append') {
            next += one.gap
            written.append([next - 1, one.flags])
            model.set(next - 1, { flags: one.flags, keywords: new Set() })
            continue
          }
          const first = one.first + 1
          const last = first + one.more
          if (one.type === 'flags') written.flags(first, last, one.add, one.remove)
          else if (one.type === 'keyword') written.keyword(one.name, one.on, first, last)
          else written.expunge(first, last)
          for (const [uid, message] of model) {
            if (uid < first || uid > last) continue
            if (one.type === 'flags') message.flags = (message.flags & ~one.remove) | one.add
            else if (one.type === 'expunge') model.delete(uid)
            else if (one.on) message.keywords.add(one.name)
            else message.keywords.delete(one.name)
          }
        }
        const { read: found, faults } = await read({ 'i.log': written.done() })
        expect(rowsOf(found!)).toEqual(
          [...model].map(([uid, { flags, keywords }]) => [uid, flags, [...keywords].sort().join(' ')]),
        )
        expect(faults.list).toEqual([])
      }),
      { numRuns },
    )
  })
})

describe('bytes that nobody has checked', () => {
  const types = [
    1, 2, 4, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000,
    0x8_0000, 0x10_0000,
  ]
  const small = fc.oneof(fc.nat(9), fc.constantFrom(0xffff, 0xffff_ffff, 0x7fff_ffff, 40, 120))
  const words = fc.array(small, { maxLength: 12 })

  test('are no index that costs more memory than they are', () => {
    const record = fc.record({ type: fc.constantFrom(...types), words, external: fc.boolean() })
    fc.assert(
      fc.property(fc.array(record, { maxLength: 60 }), (records) => {
        const written = new LogWriter().append(...Array.from({ length: 20 }, (_, i) => [i + 1, i] as const))
        for (const name of ['guid', 'keywords', 'modseq', 'list', 'unknown']) written.intro(name, 65_535)
        for (const { type, words: payload, external } of records)
          written.record(type, (out) => out.u32(...payload), external)
        const bytes = written.done()
        const header = log.readLogHeader(bytes)!
        const index = new MailIndex(true)
        const replay = new Replay(index, () => {})
        replay.begin(bytes, header)
        log.walkLog(bytes, header, header.headerSize, (one) => replay.apply(one, 'all'))
        let kept = 0
        for (const extension of index.extensions) kept += extension.column.length + extension.header.length
        expect(kept).toBeLessThan(64 * bytes.length + 65_536)
        for (let row = 1; row < index.count; row++) expect(index.uids[row]!).toBeGreaterThan(index.uids[row - 1]!)
        for (let row = 0; row < index.count; row++) index.keywordsOf(row)
      }),
      { numRuns },
    )
  })

  test('may be anything, and are read without an error', async () => {
    const valid = new LogWriter()
      .header(24, 1)
      .append([1, 0], [2, 0])
      .keyword('a', true, 1, 2)
      .intro('guid', 16)
      .data(1, [1])
      .done()
    const snapshot = snapshotOf({
      messages: [
        [1, 0, 7],
        [2, 0, 8],
      ],
      head: valid.length,
    })
    const change = fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 6 })
    const damaged = (bytes: Uint8Array) => (changes: readonly (readonly [number, number])[]) => {
      const out = Uint8Array.from(bytes)
      for (const [at, value] of changes) if (out.length > 0) out[at % out.length] = value
      return out
    }
    const logs = fc.oneof(fc.uint8Array({ maxLength: 300 }), change.map(damaged(valid)))
    const snapshots = fc.oneof(fc.uint8Array({ maxLength: 300 }), change.map(damaged(snapshot)))
    await fc.assert(
      fc.asyncProperty(snapshots, snapshots, logs, logs, async (index, backup, newer, older) => {
        await read({ i: index, 'i.backup': backup, 'i.log': newer, 'i.log.2': older })
        readSnapshot(index, { lenient: true })
      }),
      { numRuns },
    )
  })
})

test('the examples in the documentation are what they say', () => {
  const document = readFileSync(new URL('../../../../../docs/formats/dovecot.md', import.meta.url), 'utf8')
  const [logBytes, snapshot] = [...document.matchAll(/```hex\n([^]*?)\n```/g)].map(([, hex]) => parseHex(hex!))
  const written = new LogWriter().header(24, 1234).append([1, 0], [2, 8]).keyword('Work', true, 2, 2).expunge(1, 1)
  expect(Buffer.from(logBytes!).toString('hex')).toBe(Buffer.from(written.done()).toString('hex'))
  const taken = snapshotOf({ messages: [[2, 8, 0xab]], head: written.size })
  expect(Buffer.from(snapshot!).toString('hex')).toBe(Buffer.from(taken).toString('hex'))
  expect(readSnapshot(snapshot!)).toMatchObject({ indexId: INDEX_ID, problems: [] })
})
