import { readFileSync } from 'node:fs'
import { memoryTable } from '@mailstead/box/testing'
import { parseHex } from '@mailstead/bytes'
import type { Fs } from '@mailstead/fs'
import { type CrashableFsOptions, crashableFs } from '@mailstead/fs/faults'
import { memoryFs } from '@mailstead/fs/memory'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { dumpJournal } from './journal-dump.ts'
import { isDead, Journal, JOURNAL, put } from './journal.ts'
import {
  type Dead,
  JOURNAL_HEADER,
  PAYLOAD_MAX,
  readJournal,
  writeJournalHeader,
  writeRecords,
} from './journal-format.ts'
import { mdbox } from './mdbox.ts'
import { COLUMNS, PlaceTable } from './place.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === undefined ? 100 : 2_000
const salt = Buffer.from('0102030405060708', 'hex')

/** Some messages in a few files. */
const messages = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 9 }), fc.nat({ max: 2 ** 40 }), fc.nat({ max: 0xffff_ffff })), {
    maxLength: 40,
  })
  .map((list) => {
    const dead: Dead = new Map()
    for (const [file, offset, sum] of list) put(dead, file, offset, sum)
    return dead
  })
const change = fc.oneof(
  fc.record({ kind: fc.constant('dead' as const), messages }),
  fc.record({
    kind: fc.constant('gone' as const),
    files: fc.uniqueArray(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 5 }),
  }),
)
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never

function fileOf(changes: readonly Change[]): { bytes: Buffer; ends: number[] } {
  const records = writeRecords(salt, 1, changes)
  const ends: number[] = []
  let end = JOURNAL_HEADER
  for (const record of records) ends.push((end += record.length))
  return { bytes: Buffer.concat([writeJournalHeader(salt), ...records]), ends }
}

/** What the changes come to, the plainest way. */
function expected(changes: readonly Change[]): string[] {
  const dead = new Map<string, number>()
  for (const one of changes) {
    if (one.kind === 'gone') {
      for (const key of dead.keys()) if (one.files.includes(Number(key.split(' ')[0]))) dead.delete(key)
      continue
    }
    for (const [file, list] of one.messages) for (const [offset, sum] of list) dead.set(`${file} ${offset}`, sum)
  }
  return [...dead].map(([key, sum]) => `${key} ${sum}`).sort()
}

function shown(dead: Dead): string[] {
  return [...dead].flatMap(([file, list]) => [...list].map(([offset, sum]) => `${file} ${offset} ${sum}`)).sort()
}

describe('journal records', () => {
  test('what is written is read', () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 8 }), (changes) => {
        const read = readJournal(fileOf(changes).bytes)
        expect(read.damage).toEqual([])
        expect(shown(read.dead)).toEqual(expected(changes))
      }),
      { numRuns },
    )
  })

  test('a journal cut anywhere says what its whole records say, and that is no damage', () => {
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 6 }), fc.nat(), (changes, n) => {
        const { bytes, ends } = fileOf(changes)
        const cut = JOURNAL_HEADER + (n % (bytes.length - JOURNAL_HEADER + 1))
        const read = readJournal(bytes.subarray(0, cut))
        expect(read.damage).toEqual([])
        expect(read.sequence).toBe(ends.filter((end) => end <= cut).length)
        expect(read.end).toBe(ends.findLast((end) => end <= cut) ?? JOURNAL_HEADER)
      }),
      { numRuns },
    )
  })

  test('a flipped bit is found, costs the record it is in, and names nobody dead who was not', () => {
    let found = 0
    fc.assert(
      fc.property(
        fc.array(change, { minLength: 2, maxLength: 6 }),
        fc.nat(),
        fc.integer({ min: 0, max: 7 }),
        (changes, n, bit) => {
          const { bytes, ends } = fileOf(changes)
          if (ends.length === 0) return
          const at = n % bytes.length
          bytes[at]! ^= 1 << bit
          const read = readJournal(bytes)
          const all = new Set(changes.flatMap((one) => (one.kind === 'dead' ? shown(one.messages) : [])))
          for (const one of shown(read.dead)) expect(all).toContain(one)
          const isLast = at >= (ends.at(-2) ?? JOURNAL_HEADER)
          // Of the last record nobody can tell it from one that was not finished.
          if (at >= JOURNAL_HEADER && isLast) expect(read.end).toBe(ends.at(-2) ?? JOURNAL_HEADER)
          else {
            expect(read.damage).not.toEqual([])
            found++
          }
          if (at >= JOURNAL_HEADER && !isLast) expect(read.sequence).toBe(ends.length)
        },
      ),
      { numRuns },
    )
    console.log(`journal: ${found} flipped bits found`)
  })

  test('whatever the bytes, reading ends, in memory of their size', () => {
    fc.assert(
      fc.property(
        fc.array(change, { maxLength: 4 }),
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(),
        (changes, noise, n) => {
          const { bytes } = fileOf(changes)
          bytes.set(noise.subarray(0, Math.max(0, bytes.length - (n % bytes.length))), n % bytes.length)
          const read = readJournal(bytes)
          expect(shown(read.dead).length).toBeLessThanOrEqual(bytes.length)
          readJournal(noise)
        },
      ),
      { numRuns },
    )
  })

  test('more than a payload holds is several records', () => {
    const dead: Dead = new Map()
    for (let n = 0; n < 20_000; n++) put(dead, 1 + (n % 3), n * 1000, n)
    const records = writeRecords(salt, 1, [{ kind: 'dead', messages: dead }])
    expect(records.length).toBeGreaterThan(1)
    for (const record of records) expect(record.length).toBeLessThanOrEqual(PAYLOAD_MAX + 20)
    expect(shown(readJournal(Buffer.concat([writeJournalHeader(salt), ...records])).dead)).toEqual(shown(dead))
  })

  test('the example in docs/formats/journal.md is what is written', () => {
    const page = readFileSync(new URL('../../../../docs/formats/journal.md', import.meta.url), 'utf8')
    const [bytes] = [...page.matchAll(/```hex\n([^`]*)```/g)].map(([, dump]) => parseHex(dump!))
    const dead: Dead = new Map([
      [1, new Map([[33, 0xcafe_f00d]])],
      [
        3,
        new Map([
          [33, 0x0102_0304],
          [1033, 0x0a0b_0c0d],
        ]),
      ],
    ])
    const records = writeRecords(salt, 1, [
      { kind: 'dead', messages: dead },
      { kind: 'gone', files: [1] },
    ])
    expect(Buffer.from(bytes!).toString('hex')).toBe(
      Buffer.concat([writeJournalHeader(salt), ...records]).toString('hex'),
    )
    expect(shown(readJournal(bytes!).dead)).toEqual(['3 1033 168496141', '3 33 16909060'])
    const lines = ['expunged: file 3, offset 33, sum 01020304', 'expunged: file 3, offset 1033, sum 0a0b0c0d']
    const { length } = bytes!
    expect(dumpJournal(bytes!)).toEqual([
      `0 journal of expunged messages, 2 records, ${length} of ${length} bytes`,
      ...lines,
    ])
    for (let at = 8; at < length; at++)
      expect(dumpJournal(bytes!.with(at, bytes![at]! ^ 1))).not.toEqual(dumpJournal(bytes!))
    expect(dumpJournal(bytes!.subarray(1))).toBeUndefined()
  })
})

/** A table whose rows are set as a test likes. */
class Rows {
  readonly #table = memoryTable(COLUMNS)
  readonly #process = this.#table.process()
  readonly #refs = new Map<string, number>()
  readonly places = new PlaceTable(this.#process.host.table)

  async set(file: number, offset: number, uses: number): Promise<void> {
    const key = `${file} ${offset}`
    let ref = this.#refs.get(key)
    if (ref === undefined) {
      const id = this.#process.host.table.id
      let row = { uid: 0 }
      await this.#process.commit((tx) => {
        row = tx.append(id, { columns: { file, offset, length: 100, sum: file * 1000 + offset, flags: 1 } })
      })
      ref = row.uid
      this.#refs.set(key, ref)
    }
    await this.#process.setUses([ref], uses)
  }
  async drop(): Promise<void> {
    const { host } = this.#process
    const { table } = host
    await host.transact((tx) => tx.dropUnused(table.id, [...this.#refs.values()]))
    for (const [key, ref] of this.#refs) if (table.view.rowOf(ref) < 0) this.#refs.delete(key)
  }
}

const files =
  (...ids: number[]) =>
  async (): Promise<ReadonlySet<number>> =>
    new Set(ids)

describe('journal', () => {
  async function deadIn(fs: Fs): Promise<string[]> {
    return shown((await new Journal(fs, 'box').read()).dead)
  }

  test('has what the table calls dead, keeps what a table has lost, and takes back what lives again', async () => {
    const fs = memoryFs()
    const journal = new Journal(fs, 'box')
    const rows = new Rows()
    await rows.set(1, 10, 1)
    await journal.write(rows.places, files(1))
    expect(await fs.stat(`box/${JOURNAL}`)).toBeUndefined()
    await rows.set(1, 20, 0)
    await rows.set(2, 10, 0)
    await journal.write(rows.places, files(1, 2))
    expect(await deadIn(fs)).toEqual(['1 20 1020', '2 10 2010'])
    const before = await fs.stat(`box/${JOURNAL}`)
    await journal.write(rows.places, files(1, 2))
    expect(await fs.stat(`box/${JOURNAL}`)).toEqual(before)
    await rows.set(1, 20, 2)
    await journal.write(rows.places, files(1, 2))
    expect(await deadIn(fs)).toEqual(['2 10 2010'])
    const lost = new Rows()
    await lost.set(1, 20, 1)
    await new Journal(fs, 'box').write(lost.places, files(1, 2))
    expect(await deadIn(fs)).toEqual(['2 10 2010'])
    await journal.write(lost.places, async () => undefined)
    expect(await deadIn(fs)).toEqual(['2 10 2010'])
    await journal.write(lost.places, files(1))
    expect(await deadIn(fs)).toEqual([])
    const { dead } = await journal.read()
    expect(isDead(dead, 2, 10, 2010)).toBe(false)
  })

  test('is written anew when it is damaged, and when most of it is about files that are gone', async () => {
    const fs = memoryFs()
    const rows = new Rows()
    const journal = new Journal(fs, 'box')
    await rows.set(1, 10, 0)
    await rows.set(2, 20, 0)
    await journal.write(rows.places, files(1, 2))
    const bytes = Uint8Array.from(await fs.readFile(`box/${JOURNAL}`))
    bytes[3]! ^= 1
    await fs.writeFile(`box/${JOURNAL}`, bytes)
    expect((await new Journal(fs, 'box').read()).damage).not.toEqual([])
    await new Journal(fs, 'box').write(rows.places, files(1, 2))
    expect((await new Journal(fs, 'box').read()).damage).toEqual([])
    expect(await deadIn(fs)).toEqual(['1 10 1010', '2 20 2020'])
    let largest = 0
    for (let round = 3; round < 40; round++) {
      const many: Dead = new Map()
      for (let n = 0; n < 2_000; n++) put(many, round, n * 100, n)
      await journal.add(many)
      await journal.write(rows.places, files(1, 2))
      largest = Math.max(largest, (await fs.stat(`box/${JOURNAL}`))!.size)
    }
    expect(await deadIn(fs)).toEqual(['1 10 1010', '2 20 2020'])
    expect(largest).toBeLessThan(512 * 1024)
  })

  test('what was taken back no damage brings back', async () => {
    let looked = 0
    for (let n = 0; n < 20; n++) {
      const fs = memoryFs()
      const journal = new Journal(fs, 'box')
      const rows = new Rows()
      await rows.set(1, 10, 0)
      await rows.set(1, 20, 0)
      await journal.write(rows.places, files(1, 2))
      await rows.set(1, 10, 1)
      await journal.write(rows.places, files(1, 2))
      for (let more = 0; more < n % 3; more++) {
        await rows.set(2, 10 * (more + 1), 0)
        await journal.write(rows.places, files(1, 2))
      }
      expect(await deadIn(fs)).not.toContain('1 10 1010')
      const whole = await fs.readFile(`box/${JOURNAL}`)
      for (let at = 0; at < whole.length; at++) {
        const bytes = Uint8Array.from(whole)
        bytes[at]! ^= 1 << (n % 8)
        expect(shown(readJournal(bytes).dead)).not.toContain('1 10 1010')
        if (at > JOURNAL_HEADER) expect(shown(readJournal(whole.subarray(0, at)).dead)).not.toContain('1 10 1010')
        looked++
      }
    }
    console.log(`journal: ${looked} times damaged after something was taken back`)
  })

  /** Looks at what every power cut leaves; resolves to how many. */
  async function cutEverywhere(lies: CrashableFsOptions['lies'] = () => false): Promise<number> {
    const statesEach = depth === undefined ? 6 : 100
    const disk = crashableFs({ lies })
    const journal = new Journal(disk, 'box')
    const rows = new Rows()
    const history: { from: number; to: number; before: string[]; after: string[] }[] = []
    let last: string[] = []
    for (let n = 0; n < 12; n++) {
      const from = disk.tick
      await rows.set(1 + (n % 3), n * 100, n % 4 === 3 ? 1 : 0)
      if (n % 5 === 4) await rows.drop()
      if (n === 8) await disk.writeFile(`box/${JOURNAL}`, Buffer.from('damaged'))
      if (n % 5 === 4) await journal.write(rows.places, files(1, 2))
      else await journal.write(rows.places, files(1, 2, 3))
      const after = shown((await new Journal(disk, 'box').read()).dead)
      history.push({ from, to: disk.tick, before: last, after })
      last = after
    }
    let states = 0
    for (const state of disk.everyState({ seed: 1, maxStates: statesEach })) {
      states++
      await using fs = state.open()
      const found = await deadIn(fs)
      const step = history.find(({ to }) => state.tick <= to)!
      // While it was damaged, nobody can say anything.
      if (step === history[8]) continue
      const allowed = state.tick === step.to ? [step.after] : [step.before, step.after]
      expect(allowed, state.description).toContainEqual(found)
      const again = new Journal(fs, 'box')
      await again.write(rows.places, files(1, 2, 3))
      expect((await again.read()).damage, state.description).toEqual([])
    }
    return states
  }

  test('a power cut at any time leaves what was written, or what was being written too', async () => {
    const states = await cutEverywhere()
    console.log(`journal: ${states} states of a power cut`)
    expect(states).toBeGreaterThan(50)
  })
  test.each(['sync', 'writeFile'] as const)('a disk whose %s does nothing is caught', async (lie) => {
    await expect(cutEverywhere((operation) => operation === lie)).rejects.toThrow()
  })
})

test('a message that is used again is not purged, though the journal called it dead, and is not called so any more', async () => {
  const fs = memoryFs()
  const process = memoryTable(COLUMNS).process()
  const { host } = process
  await using box = await mdbox(fs, 'storage', { purgeShare: 0.01 }).open(host)
  await using batch = box.begin()
  const saved = [
    await batch.save(Buffer.alloc(500, 'a'), { guid: Buffer.alloc(16, 1), receivedMs: 0 }),
    await batch.save(Buffer.alloc(500, 'b'), { guid: Buffer.alloc(16, 2), receivedMs: 0 }),
  ]
  await batch.flush()
  const refs = await process.keep(...saved)
  await batch[Symbol.asyncDispose]()
  await process.setUses(refs, 0)
  await box.journal!()
  const expunged = async (): Promise<number> =>
    (await Array.fromAsync(box.scan())).flat().filter((one) => one.expunged === true).length
  expect(await expunged()).toBe(2)
  await process.setUses([refs[0]!], 1)
  expect((await box.purge()).messages).toBe(1)
  await using message = await box.open(refs[0]!)
  expect(Buffer.from(message.whole!).toString()).toBe('a'.repeat(500))
  await box.journal!()
  expect(await expunged()).toBe(0)
})
