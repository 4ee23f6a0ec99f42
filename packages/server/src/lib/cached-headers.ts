/**
 * BODY[HEADER.FIELDS (…)] from the cache, without opening messages and without an object per message: the `hdr` record is
 * copied into one buffer, and the lines of the wanted fields into another.
 */
import { headerFieldsCached } from '@mailstead/imap/cache-fields'
import type { TableView } from '@mailstead/index'
import { CacheReader } from './cache-reader.ts'
import { fieldEnd, fieldNames, namedField } from './header-lines.ts'

/** Results up to this size share memory; the connection copies them. Larger ones it may keep, so they get their own. */
const SHARED_MAX = 4096
const CR = 13
const LF = 10

export class CachedHeaders {
  readonly #reader: CacheReader
  readonly #names: readonly Uint8Array[]
  #out: Buffer = Buffer.allocUnsafe(16 * 1024)

  constructor(view: TableView, fields: readonly string[]) {
    this.#reader = new CacheReader(view, 'hdr')
    this.#names = fieldNames(fields)
  }

  /** Whether the cache holds all fields that are asked for. */
  static holds(fields: readonly string[]): boolean {
    return headerFieldsCached(fields)
  }

  /** The fields, and the empty line; undefined where the message has to be asked. Valid until the next call. */
  fields(row: number): Uint8Array | undefined {
    const length = this.#reader.read(row)
    if (length <= 0) return undefined
    const { bytes } = this.#reader
    if (this.#out.length < length + 2) this.#out = Buffer.allocUnsafe(length * 2)
    const out = this.#out
    let used = 0
    // Neighbouring fields are copied together.
    let from = -1
    let at = 0
    while (at < length && bytes[at] !== CR && bytes[at] !== LF) {
      const end = fieldEnd(bytes, at, length)
      if (namedField(bytes, at, end, this.#names) >= 0) {
        if (from < 0) from = at
      } else if (from >= 0) {
        used += bytes.copy(out, used, from, at)
        from = -1
      }
      at = end
    }
    if (from >= 0) used += bytes.copy(out, used, from, at)
    out[used++] = CR
    out[used++] = LF
    return used <= SHARED_MAX ? out.subarray(0, used) : Buffer.from(out.subarray(0, used))
  }
}
