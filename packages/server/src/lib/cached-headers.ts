/** BODY[HEADER.FIELDS (…)] from the cache, without opening messages. */
import { headerFieldsCached, readHeaderFields } from '@mailstead/imap/cache-fields'
import type { CacheColumn, TableView } from '@mailstead/index'

export class CachedHeaders {
  readonly #column: CacheColumn

  constructor(view: TableView) {
    this.#column = view.cache('hdr')
  }

  /** Whether the cache holds all fields that are asked for. */
  static holds(fields: readonly string[]): boolean {
    return headerFieldsCached(fields)
  }

  /** The fields, and the empty line; undefined where the message has to be asked. */
  fields(row: number, fields: ReadonlySet<string>): Uint8Array | undefined {
    const record = this.#column.value(row)
    if (record === undefined || record.length === 0) return undefined
    return readHeaderFields(record, fields)
  }
}
