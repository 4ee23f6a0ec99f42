/**
 * Copying records raw from file to file, and the rows that then follow them: what purge and altmove share.
 *
 * Copies are durable when `flush` has resolved; until the transaction that `apply` fills in is, nobody knows of them, and their
 * files are pinned. A record is verified before it is copied.
 *
 * MEMORY   a group of small records, and six numbers for each record that was copied.
 */
import type { BoxRef, BoxTransaction } from '@mailstead/box'
import type { Tier, TierContext } from './altmove-tier.ts'
import type { Pending } from './append.ts'
import type { OpenFile } from './files.ts'
import { SMALL_MAX } from './options.ts'
import type { Pace } from './pace.ts'
import { FLAG_ALT, type Places } from './place.ts'
import { damaged, type Place, verifyWhole } from './read.ts'
import { verifyRecord } from './walk.ts'
import { Window } from './window.ts'

/** Bytes copied in one group. */
export const COPY_GROUP: number = 4 * 1024 * 1024
const COPY_PIECE: number = 256 * 1024
/** Read at once where records lie close together, in bytes; and how far apart they then are at most. */
const AHEAD_BYTES: number = 512 * 1024
const GAP_MAX: number = 16 * 1024

/** Where the messages of these rows are. One place is used again for all. */
export function* openPlaces(places: Places, rows: Iterable<number>): Generator<Place, void, undefined> {
  const place: Place = { ref: 0, alt: false, flags: 0, file: 0, offset: 0, length: 0, sum: 0 }
  for (const row of rows) {
    readPlace(places, row, place)
    yield place
  }
}

/** Fills in where the message of a row is. */
export function readPlace({ view, file, offset, length, sum, flags }: Places, row: number, place: Place): void {
  place.ref = view.uid(row)
  place.flags = flags.number(row)
  place.alt = (place.flags & FLAG_ALT) !== 0
  place.file = file.number(row)
  place.offset = offset.number(row)
  place.length = length.number(row)
  place.sum = sum.number(row)
}

export class Moves implements AsyncDisposable {
  /** References of what was copied and flushed, and where it is now. */
  readonly refs: BoxRef[] = []
  readonly #target: Tier
  readonly #context: TierContext
  readonly #pace: Pace
  readonly #files: number[] = []
  readonly #offsets: number[] = []
  readonly #flags: number[] = []
  readonly #pins: number[] = []
  #group: Pending[] = []
  #groupRefs: BoxRef[] = []
  #groupFlags: number[] = []
  #groupBytes = 0
  /** The file read last, with one use. */
  #open: { readonly tier: Tier; readonly file: OpenFile } | undefined
  /** What was read of it last, and where that begins; never written to again. */
  #ahead: Buffer = Buffer.alloc(0)
  #aheadAt = 0
  /** Where the record that was read last ends. */
  #end = -1

  constructor(target: Tier, context: TierContext, pace: Pace) {
    this.#target = target
    this.#context = context
    this.#pace = pace
  }

  /** BOX_DAMAGED or BOX_CORRUPT if the record is not as its row says: nothing of it is copied. */
  async copy(from: Tier, place: Place): Promise<void> {
    if (this.#open?.tier !== from || this.#open.file.id !== place.file) {
      this.#close()
      this.#open = { tier: from, file: await from.files.open(place.file) }
    }
    const { file } = this.#open
    if (place.length > SMALL_MAX) {
      await this.#copyLarge(file, place)
      return
    }
    const record = await this.#read(file, place)
    verifyWhole(record, record.length, place, file.headerBytes)
    this.#group.push({ parts: [record], length: record.length, file: 0, offset: 0 })
    this.#groupRefs.push(place.ref)
    this.#groupFlags.push(place.flags)
    this.#groupBytes += record.length
    if (this.#groupBytes >= COPY_GROUP) await this.flush()
  }

  async flush(): Promise<void> {
    if (this.#group.length === 0) return
    const bytes = this.#groupBytes
    this.#pins.push(await this.#target.appender.append(this.#group, bytes))
    for (const [i, { file, offset }] of this.#group.entries())
      this.#moved(this.#groupRefs[i]!, this.#groupFlags[i]!, file, offset)
    this.#group = []
    this.#groupRefs = []
    this.#groupFlags = []
    this.#groupBytes = 0
    await this.#pace.spent(bytes)
  }

  /** Lets the rows follow what was flushed. `isThere`: those that still are. */
  apply(tx: BoxTransaction, isThere: (ref: BoxRef) => boolean = () => true): void {
    const { id } = this.#context.host.table
    for (const [i, ref] of this.refs.entries()) {
      if (!isThere(ref)) continue
      tx.setColumn(id, 'file', ref, this.#files[i]!)
      tx.setColumn(id, 'offset', ref, this.#offsets[i]!)
      tx.setColumn(id, 'flags', ref, this.#flags[i]!)
    }
  }

  /** What was copied has its rows, or is dead. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#close()
    for (const id of this.#pins) this.#target.appender.unpin(id)
    this.#pins.length = 0
    return Promise.resolve()
  }

  #close(): void {
    this.#open?.file.release()
    this.#open = undefined
    this.#ahead = Buffer.alloc(0)
    this.#end = -1
  }

  /** The bytes of a record; fewer if the file ends before. */
  async #read({ file }: OpenFile, { offset, length }: Place): Promise<Buffer> {
    const isNear = this.#end >= 0 && offset >= this.#end && offset - this.#end <= GAP_MAX
    this.#end = offset + length
    if (offset < this.#aheadAt || offset + length > this.#aheadAt + this.#ahead.length) {
      const bytes = Buffer.allocUnsafeSlow(isNear ? Math.max(length, AHEAD_BYTES) : length)
      this.#ahead = bytes.subarray(0, await file.read(bytes, offset))
      this.#aheadAt = offset
    }
    return this.#ahead.subarray(offset - this.#aheadAt, offset - this.#aheadAt + length)
  }

  #moved(ref: BoxRef, flags: number, file: number, offset: number): void {
    this.refs.push(ref)
    this.#flags.push(this.#target.alt ? flags | FLAG_ALT : flags & ~FLAG_ALT)
    this.#files.push(file)
    this.#offsets.push(offset)
  }

  async #copyLarge(open: OpenFile, place: Place): Promise<void> {
    const { ref, flags, offset, length } = place
    const window = new Window(open.file, length)
    const found = await window.run(verifyRecord(offset, offset + length, open.headerBytes))
    if (found.damage !== undefined || found.length !== length || found.sum !== place.sum)
      throw damaged(place, found.damage ?? 'this is not the message of the row')
    const { appender } = this.#target
    const spool = await appender.takeSpool()
    appender.pin(spool.id)
    this.#pins.push(spool.id)
    try {
      const at = await spool.begin([])
      for (let done = 0; done < length; done += COPY_PIECE)
        await spool.append([await window.bytes(offset + done, Math.min(COPY_PIECE, length - done))])
      spool.complete()
      await spool.sync()
      this.#moved(ref, flags, spool.id, at)
    } finally {
      await spool.rollback()
      appender.giveSpool(spool)
    }
    await this.#pace.spent(length)
  }
}
