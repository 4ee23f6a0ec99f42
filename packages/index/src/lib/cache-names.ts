/** The names of the fields of a cache file: their keys, and the tables of names that the file has, at its beginning first. */
import type { FsFile } from '@mailstead/fs'
import {
  CACHE_FIELDS_MAX,
  CACHE_NAME_MAX,
  checkFieldName,
  decodeRecord,
  fieldKey,
  NO_GUID,
  RECORD_FIXED,
  recordHead,
  recordSize,
  writeRecord,
} from './cache-record.ts'

const NAMES_MAX = 1000

export class CacheNames {
  readonly #seed: number
  readonly #keys = new Map<string, number>()
  /** Keys whose names are in the file. */
  #named: Set<number> | undefined
  /** There may be keys whose names are not. */
  #unnamed = true

  constructor(seed: number) {
    this.#seed = seed
  }

  /** Which names are in the file is not known any more: it is another one. */
  forget(): void {
    this.#named = undefined
    this.#unnamed = true
  }

  key(name: string): number {
    let key = this.#keys.get(name)
    if (key === undefined) {
      checkFieldName(name)
      key = fieldKey(name)
      for (const [other, taken] of this.#keys)
        if (taken === key) throw new RangeError(`cache fields ${other} and ${name} have the same key`)
      if (this.#keys.size === NAMES_MAX) throw new RangeError(`more than ${NAMES_MAX} cache fields`)
      this.#keys.set(name, key)
      this.#unnamed = true
    }
    return key
  }

  /** A table of the names that the file does not have yet. */
  missingIn(file: FsFile): Buffer | undefined {
    this.#named ??= namesIn(firstRecord(file, this.#seed))
    if (!this.#unnamed) return undefined
    const named = this.#named
    const names: string[] = []
    for (const [name, key] of this.#keys) {
      if (named.has(key) || names.length === CACHE_FIELDS_MAX) continue
      named.add(key)
      names.push(name)
    }
    this.#unnamed = names.length === CACHE_FIELDS_MAX
    return names.length === 0 ? undefined : tableOfNames(names, this.#seed)
  }
}

export function tableOfNames(names: readonly string[], seed: number): Buffer {
  const record = { uid: 0, guid: NO_GUID, keys: names.map(fieldKey), values: names.map((name) => Buffer.from(name)) }
  const out = Buffer.allocUnsafe(recordSize(record))
  writeRecord(out, 0, seed, record)
  return out
}

/** Whoever makes a file writes its names first. */
function firstRecord(file: FsFile, seed: number): Buffer | undefined {
  const head = Buffer.allocUnsafe(recordHead(CACHE_FIELDS_MAX) + CACHE_FIELDS_MAX * CACHE_NAME_MAX)
  const bytes = head.subarray(0, file.readSync!(head, 0))
  const record = decodeRecord(bytes, 0, seed)
  return record === undefined ? undefined : bytes.subarray(0, record.length)
}

function namesIn(first: Buffer | undefined): Set<number> {
  const keys = new Set<number>()
  if (first === undefined || first.readUInt32LE(8) !== 0) return keys
  for (let i = 0; i < first.readUInt32LE(12); i++) keys.add(first.readUInt32LE(RECORD_FIXED + 8 * i))
  return keys
}
