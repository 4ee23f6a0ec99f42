/**
 * Where a user's private flags are: two tables in the user's own index for each shared mailbox.
 *
 * FORMAT   must not change: on disk
 *   K := base32 (a-z, 2-7, no padding) of the shared store's UUID (16 bytes) and the mailbox's GUID (16 bytes)
 *
 *   table `private-<K>`
 *     A row for each message of the shared mailbox, by the same UID: the user's own flags and keywords. Modseqs are
 *     those shown to the user (private-order.ts). UIDVALIDITY is the shared mailbox's, UIDNEXT too when it was taken
 *     in.
 *       value `mask`    u8     system flags that the rows say something of
 *       value `shared`  u48le  modseq of the shared mailbox up to which its expunges were taken in
 *
 *   table `order-<K>`
 *     Row i stands for private change i, and for those after it until the next row; UIDNEXT is one more than the number
 *     of private changes. UIDVALIDITY is the shared mailbox's.
 *       column `shared`  6 bytes, the modseq of the shared mailbox when the change was made
 *
 *   table `lost-<K>`, of a mailbox that the user may not see any more
 *     No rows: the table's highest modseq is since when that was noticed, in seconds since the epoch; UIDNEXT is 2 when
 *     the user's flags were cleared because of it.
 *
 *   table `moved-<S>`, for each shared store: see private-moves.ts
 *
 * See docs/formats/private-flags.md.
 */
import type { ColumnSpec, TableView } from '@mailstead/index'

/** A mailbox of another's store. Two stores that are copies of each other have mailboxes of the same GUIDs. */
export interface SharedMailboxKey {
  /** UUID of the store, 16 bytes. */
  readonly store: Uint8Array
  /** GUID of the mailbox, 32 lower-case hex digits. */
  readonly mailbox: string
}

/** What a user has of his own in one shared mailbox. Both are of the same moment. */
export interface PrivateView {
  readonly flags: TableView
  readonly order: TableView
}

export const MASK_VALUE = 'mask'
export const SHARED_VALUE = 'shared'
export const ORDER_SHARED = 'shared'
export const ORDER_COLUMNS: readonly ColumnSpec[] = [{ name: ORDER_SHARED, bytes: 6 }]

const FLAGS_PREFIX = 'private-'
const ORDER_PREFIX = 'order-'
const LOST_PREFIX = 'lost-'
const FOLLOWED_PREFIX = 'moved-'
const DIGITS = 'abcdefghijklmnopqrstuvwxyz234567'

export function flagsTable(key: SharedMailboxKey): string {
  return tablesOf(key).flags
}
export function orderTable(key: SharedMailboxKey): string {
  return tablesOf(key).order
}

export function lostTable(key: SharedMailboxKey): string {
  return LOST_PREFIX + tablesOf(key).flags.slice(FLAGS_PREFIX.length)
}

/** Up to where the user's flags followed messages that were moved within a store (private-moves.ts). */
export function followedTable(store: Uint8Array): string {
  let id = followed.get(store)
  if (id === undefined) followed.set(store, (id = FOLLOWED_PREFIX + digitsOf(uuidOf(store))))
  return id
}

const followed = new WeakMap<Uint8Array, string>()
const known = new WeakMap<SharedMailboxKey, { readonly flags: string; readonly order: string }>()

function tablesOf(key: SharedMailboxKey): { readonly flags: string; readonly order: string } {
  let tables = known.get(key)
  if (tables === undefined) {
    const digits = keyDigits(key)
    tables = { flags: FLAGS_PREFIX + digits, order: ORDER_PREFIX + digits }
    known.set(key, tables)
  }
  return tables
}

/** Columns of one of these tables; undefined for any other. */
export function privateColumns(id: string): readonly ColumnSpec[] | undefined {
  if (keyOfTable(id) !== undefined) return []
  if (id.startsWith(FOLLOWED_PREFIX) && decoded(id.slice(FOLLOWED_PREFIX.length), 16) !== undefined) return []
  const isOf = (prefix: string): boolean =>
    id.startsWith(prefix) && keyOfTable(FLAGS_PREFIX + id.slice(prefix.length)) !== undefined
  return isOf(ORDER_PREFIX) ? ORDER_COLUMNS : isOf(LOST_PREFIX) ? [] : undefined
}

/** The mailbox whose private flags a table has; undefined for any other table. */
export function keyOfTable(id: string): SharedMailboxKey | undefined {
  const bytes = id.startsWith(FLAGS_PREFIX) ? decoded(id.slice(FLAGS_PREFIX.length), 32) : undefined
  if (bytes === undefined) return undefined
  return { store: new Uint8Array(bytes.subarray(0, 16)), mailbox: bytes.toString('hex', 16) }
}

export function maskOf(flags: TableView): number {
  return flags.values.get(MASK_VALUE)?.[0] ?? 0
}

export function encodeModSeq(modSeq: number): Uint8Array {
  const value = Buffer.alloc(6)
  value.writeUIntLE(modSeq, 0, 6)
  return value
}
export function decodeModSeq(value: Uint8Array | undefined): number {
  return value === undefined ? 0 : Buffer.from(value.buffer, value.byteOffset, value.length).readUIntLE(0, 6)
}

function keyDigits({ store, mailbox }: SharedMailboxKey): string {
  if (!/^[0-9a-f]{32}$/.test(mailbox))
    throw new TypeError(`a mailbox's GUID has 32 hex digits: ${JSON.stringify(mailbox)}`)
  return digitsOf(Buffer.concat([uuidOf(store), Buffer.from(mailbox, 'hex')]))
}

function uuidOf(store: Uint8Array): Uint8Array {
  if (store.length !== 16) throw new TypeError(`a store's UUID has 16 bytes, not ${store.length}`)
  return store
}

function digitsOf(bytes: Uint8Array): string {
  let digits = ''
  let bits = 0
  let held = 0
  for (const byte of bytes) {
    held = ((held << 8) | byte) & 0xfff
    bits += 8
    while (bits >= 5) {
      bits -= 5
      digits += DIGITS[(held >> bits) & 31]!
    }
  }
  return bits === 0 ? digits : digits + DIGITS[(held << (5 - bits)) & 31]!
}

/** Undefined for what `digitsOf` does not make of so many bytes. */
function decoded(digits: string, length: number): Buffer | undefined {
  if (digits.length !== Math.ceil((length * 8) / 5)) return undefined
  const bytes = Buffer.alloc(length)
  let bits = 0
  let held = 0
  let at = 0
  for (const each of digits) {
    const digit = DIGITS.indexOf(each)
    if (digit < 0) return undefined
    held = ((held << 5) | digit) & 0xfff
    bits += 5
    if (bits < 8) continue
    bits -= 8
    bytes[at++] = held >> bits
  }
  // The last digit has bits to spare.
  return (held & ((1 << bits) - 1)) === 0 ? bytes : undefined
}
