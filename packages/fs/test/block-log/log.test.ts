import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { BLOCK_BYTES, CrashBuilder, type CrashPlan, planCrashes, readLog } from './log.ts'

let directory: string
let log: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'mailstead-log-'))
  log = join(directory, 'log')
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

const BLOCKS = 8
/** What is written where, in blocks; a flush is nothing. */
type Step = { readonly block: number; readonly text: string } | undefined

function record(step: Step): Buffer {
  const data = Buffer.from(step?.text ?? '', 'latin1')
  const header = Buffer.alloc(13)
  header[0] = step === undefined ? 2 : 1
  header.writeBigUInt64LE(BigInt((step?.block ?? 0) * BLOCK_BYTES), 1)
  header.writeUInt32LE(data.length, 9)
  return Buffer.concat([header, data])
}
const block = (letter: string): string => letter.repeat(BLOCK_BYTES)
/** What each block begins with. */
const shown = (disk: Buffer): string =>
  Array.from({ length: BLOCKS }, (_, i) => String.fromCharCode(disk[i * BLOCK_BYTES] || 0x2e)).join('')

const STEPS: readonly Step[] = [
  { block: 0, text: block('a') },
  undefined,
  { block: 1, text: block('b') },
  { block: 2, text: block('c') + block('d') },
  { block: 0, text: block('A') },
  undefined,
  undefined,
  { block: 5, text: block('e') },
]

function build(plans: readonly CrashPlan[]): { disk: string; position: number }[] {
  const durable = join(directory, 'durable')
  const before = Buffer.alloc(BLOCKS * BLOCK_BYTES)
  before[7 * BLOCK_BYTES] = 0x7a
  writeFileSync(durable, before)
  using builder = new CrashBuilder(readLog(log), log, durable)
  return plans.map((plan) => {
    const position = builder.build(plan, join(directory, 'image'))
    const disk = readFileSync(join(directory, 'image'))
    expect(disk.length).toBe(before.length)
    return { disk: shown(disk), position }
  })
}

describe('the log of a disk', () => {
  beforeEach(() => writeFileSync(log, Buffer.concat(STEPS.map(record))))

  test('is read up to the last complete record', () => {
    const records = readLog(log)
    expect(records.map(({ kind, offset, length }) => [kind, offset / BLOCK_BYTES, length / BLOCK_BYTES])).toEqual([
      ['write', 0, 1],
      ['flush', 0, 0],
      ['write', 1, 1],
      ['write', 2, 2],
      ['write', 0, 1],
      ['flush', 0, 0],
      ['flush', 0, 0],
      ['write', 5, 1],
    ])
    writeFileSync(log, readFileSync(log).subarray(0, -1))
    expect(readLog(log).length).toBe(7)
    writeFileSync(log, Buffer.alloc(20, 7))
    expect(() => readLog(log)).toThrow('no record at 0')
  })

  test('says what is there after each flush, and right before the next', () => {
    const plans = planCrashes(readLog(log), { seed: 1, subsetsPerFlush: 0 })
    const built = build(plans).map(({ disk }, i) => `${plans[i]!.kind} ${disk}`)
    expect(built.filter((line) => !line.startsWith('written'))).toEqual([
      'lost .......z',
      'flush a......z',
      'lost a......z',
      'flush Abcd...z',
      'flush Abcd...z',
      'lost Abcd...z',
      'flush Abcd.e.z',
    ])
    for (const line of built.filter((one) => one.startsWith('written')))
      expect(['written ab.....z', 'written abcd...z']).toContain(line)
  })

  test('lets a power cut keep any blocks written since the last flush, each whole, and none from later', () => {
    const seen = new Set<string>()
    const records = readLog(log)
    for (let seed = 0; seed < 2; seed++) {
      const plans = planCrashes(records, { seed, subsetsPerFlush: 60 }).filter(({ durable }) => durable === 2)
      for (const [i, { disk, position }] of build(plans).entries()) {
        const { kind, cut } = plans[i]!
        expect(position).toBe(records[cut - 1]!.end)
        if (kind !== 'subset') continue
        expect(disk).toMatch(/^[aA][b.][c.][d.]\.\.\.z$/)
        seen.add(disk)
        if (cut < 5) expect(disk[0]).toBe('a')
        if (cut < 4) expect(disk.slice(2, 4)).toBe('..')
      }
    }
    expect(seen.size).toBe(16)
  })

  test('is thinned out to as many plans as are wanted, the same for the same seed', () => {
    const records = readLog(log)
    const all = planCrashes(records, { seed: 3 })
    const some = planCrashes(records, { seed: 3, most: 4 })
    expect(some.length).toBe(4)
    for (const plan of some) expect(all).toContainEqual(plan)
    expect(planCrashes(records, { seed: 3, most: 4 })).toEqual(some)
    expect(planCrashes([], { seed: 3 })).toEqual([])
  })
})
