/**
 * The log of a block device, and the disks that a power cut could have left of it.
 *
 * RECORD   offset  size  field
 *          0       1     kind    1 write, 2 flush
 *          1       8     offset  u64le, of the device, in bytes
 *          9       4     length  u32le, 0 for a flush
 *          13      …     data of a write
 *
 * What a disk may do: everything written before a flush was answered is there after it. Of what was written since, each
 * block may be there or not, in any combination.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs'
import { type Random, random } from './random.ts'

const HEADER_BYTES = 13
const WRITE = 1
const FLUSH = 2
/** The unit that a disk keeps or loses. File systems count on it no more than on a sector, journals on less. */
export const BLOCK_BYTES = 4096

export interface LogRecord {
  readonly kind: 'write' | 'flush'
  /** Of the device. */
  readonly offset: number
  readonly length: number
  /** Where the data begins in the log, and where the record ends. */
  readonly data: number
  readonly end: number
}

/** A disk after a power cut: all of the log up to `durable`, and of what follows up to `cut` a part. */
export interface CrashPlan {
  /**
   * `flush`: right after a flush. `lost`: right before the next one, and nothing written since is there, whatever had been
   * acknowledged meanwhile. `written`: everything written until some moment between. `subset`: some blocks of it.
   */
  readonly kind: 'flush' | 'lost' | 'written' | 'subset'
  /** Records that are there entirely. */
  readonly durable: number
  /** Records that were written at all. */
  readonly cut: number
  /** Chooses the blocks between the two. */
  readonly seed: number
}

export interface CrashPlanOptions {
  readonly seed: number
  /** Between two flushes, how often the power fails at some moment and keeps some of the blocks. (default 2) */
  readonly subsetsPerFlush?: number
  /** Most plans; more are thinned out by the seed. (default: all) */
  readonly most?: number
}

/** Every complete record. What a writer that died left incomplete at the end is not one. */
export function readLog(path: string): LogRecord[] {
  const records: LogRecord[] = []
  const fd = openSync(path, 'r')
  try {
    const { size } = fstatSync(fd)
    const header = Buffer.alloc(HEADER_BYTES)
    for (let at = 0; at + HEADER_BYTES <= size; ) {
      readSync(fd, header, 0, HEADER_BYTES, at)
      const kind = header[0]
      if (kind !== WRITE && kind !== FLUSH) throw new Error(`no record at ${at} of ${path}`)
      const data = at + HEADER_BYTES
      const length = header.readUInt32LE(9)
      const end = data + length
      if (end > size) break
      records.push({
        kind: kind === WRITE ? 'write' : 'flush',
        offset: Number(header.readBigUInt64LE(1)),
        length,
        data,
        end,
      })
      at = end
    }
  } finally {
    closeSync(fd)
  }
  return records
}

/** The disks to look at, in the order of the log. */
export function planCrashes(records: readonly LogRecord[], options: CrashPlanOptions): CrashPlan[] {
  const { seed, subsetsPerFlush = 2, most = Number.POSITIVE_INFINITY } = options
  const chance = random(seed)
  const plans: CrashPlan[] = []
  let durable = 0
  for (let end = 0; end <= records.length; end++) {
    const last = end === records.length
    if (!last && records[end]!.kind !== 'flush') continue
    const writes = end - durable
    for (let i = 0; i < subsetsPerFlush && writes > 0; i++) {
      const cut = durable + 1 + chance.below(writes)
      plans.push({ kind: 'subset', durable, cut, seed: chance.below(2 ** 31) })
    }
    if (writes > 0) plans.push({ kind: 'lost', durable, cut: end, seed: 0 })
    if (writes > 1) plans.push({ kind: 'written', durable, cut: durable + 1 + chance.below(writes - 1), seed: 0 })
    durable = last ? end : end + 1
    if (!last || writes > 0) plans.push({ kind: 'flush', durable, cut: durable, seed: 0 })
  }
  plans.sort((a, b) => a.durable - b.durable || a.cut - b.cut)
  while (plans.length > most) plans.splice(chance.below(plans.length), 1)
  return plans
}

/** Builds the disks of one log one after the other, in its order, into the same file. */
export class CrashBuilder implements Disposable {
  readonly #records: readonly LogRecord[]
  readonly #log: number
  /** The disk with everything up to `#applied`, and which of its blocks ever held anything. */
  readonly #durable: number
  readonly #size: number
  readonly #used: Uint8Array
  #applied = 0

  /** `durable` is the disk before the log; it is changed. */
  constructor(records: readonly LogRecord[], log: string, durable: string) {
    this.#records = records
    this.#log = openSync(log, 'r')
    this.#durable = openSync(durable, 'r+')
    this.#size = fstatSync(this.#durable).size
    this.#used = new Uint8Array(Math.ceil(this.#size / BLOCK_BYTES))
    const block = Buffer.alloc(BLOCK_BYTES)
    const zeros = Buffer.alloc(BLOCK_BYTES)
    for (let i = 0; i < this.#used.length; i++) {
      const count = readSync(this.#durable, block, 0, BLOCK_BYTES, i * BLOCK_BYTES)
      this.#used[i] = block.compare(zeros, 0, count, 0, count) === 0 ? 0 : 1
    }
  }

  /** Makes `image` the disk of `plan`. Returns where in the log the power failed. */
  build(plan: CrashPlan, image: string): number {
    if (plan.durable < this.#applied) throw new RangeError('plans must come in the order of the log')
    for (; this.#applied < plan.durable; this.#applied++) this.#apply(this.#durable, this.#records[this.#applied]!)
    const fd = openSync(image, 'w')
    try {
      ftruncateSync(fd, this.#size)
      this.#copy(fd)
      const chance = plan.kind === 'subset' ? random(plan.seed) : undefined
      const kept = plan.kind === 'lost' ? plan.durable : plan.cut
      for (let i = plan.durable; i < kept; i++) this.#apply(fd, this.#records[i]!, chance)
    } finally {
      closeSync(fd)
    }
    return plan.cut === 0 ? 0 : this.#records[plan.cut - 1]!.end
  }

  #copy(fd: number): void {
    const used = this.#used
    for (let start = 0; start < used.length; start++) {
      if (used[start] === 0) continue
      let end = start
      while (end < used.length && used[end] === 1 && end - start < 1024) end++
      const run = Buffer.allocUnsafe((end - start) * BLOCK_BYTES)
      const count = readSync(this.#durable, run, 0, run.length, start * BLOCK_BYTES)
      writeSync(fd, run, 0, count, start * BLOCK_BYTES)
      start = end - 1
    }
  }

  #apply(fd: number, record: LogRecord, chance?: Random): void {
    if (record.kind === 'flush') return
    const { offset, length } = record
    const data = Buffer.allocUnsafe(length)
    readSync(this.#log, data, 0, length, record.data)
    for (let at = 0; at < length; ) {
      const next = Math.min(length, at + BLOCK_BYTES - ((offset + at) % BLOCK_BYTES))
      if (chance === undefined || chance.below(2) === 1) {
        writeSync(fd, data, at, next - at, offset + at)
        if (fd === this.#durable) this.#used[Math.floor((offset + at) / BLOCK_BYTES)] = 1
      }
      at = next
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#log)
    closeSync(this.#durable)
  }
}
