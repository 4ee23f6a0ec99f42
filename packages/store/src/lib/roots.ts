/**
 * The roots of a store: directories that may be file systems of their own, and how the store knows that it has the right ones.
 *
 * Each side names the other, so that neither is believed alone: the tree, which is in the index, records the UUIDs of all
 * roots; and where the index is in a root of its own, a file beside the messages says in which.
 *
 * FILE     `index-root`, in the store's directory of the data root; one line of ASCII
 *          "mailstead-index-root 0 " UUID (32 lower-case hex digits) " " CRC-32 of what is before this space (8 of them) LF
 *          must not change: on disk
 *
 * INVARIANTS
 *   1. The file is written before the index is made: no index is ever made in a second place.
 *   2. Where there is a file, an index that is missing in any other root than it names is an outage.
 *
 * See docs/formats/tree.md.
 */
import { crc32 } from '@mailstead/bytes'
import { type Fs, FsError } from '@mailstead/fs'
import { type Index, IndexError } from '@mailstead/index'
import type { StoreOptions, StoreRoots } from './contract.ts'
import { StoreError } from './error.ts'
import { INDEX_PATH } from './path.ts'
import { KEY_ROOT, TREE_TABLE } from './tree.ts'

/** Must not change: on disk. */
export const INDEX_ROOT_FILE = 'index-root'
const WORDS = 'mailstead-index-root 0 '
const LINE = /^(mailstead-index-root 0 ([0-9a-f]{32})) ([0-9a-f]{8})\n$/
/** More than this is not ours. */
const LINE_MAX = 256

type Role = keyof StoreRoots
const ROLES: readonly Role[] = ['data', 'index', 'alternate', 'attachments']
/** Without these there is no store; what is missing in the second tier is unavailable by itself. */
const ESSENTIAL: ReadonlySet<Role> = new Set(['data', 'index', 'attachments'])

type Values = ReadonlyMap<string, Uint8Array>

/** Where a role's UUID is in the tree. Must not change: on disk. */
function keyOf(role: Role): string {
  return role === 'data' ? KEY_ROOT : `${KEY_ROOT}/${role}`
}

/** What the tree records. */
export function recordedRoots(values: Values): StoreRoots {
  const roots: { [role in Role]?: Uint8Array } = {}
  for (const role of ROLES) {
    const uuid = values.get(keyOf(role))
    if (uuid?.length === 16) roots[role] = uuid
  }
  return roots
}

export function checkRootOptions({ indexFs, roots = {} }: Pick<StoreOptions, 'indexFs' | 'roots'>): void {
  for (const role of ROLES) {
    const length = roots[role]?.length ?? 16
    if (length !== 16) throw new TypeError(`roots.${role} must have 16 bytes, not ${length}`)
  }
  if (indexFs !== undefined && roots.index === undefined)
    throw new TypeError('indexFs needs roots.index: without it nobody knows whether the right root is there')
}

export function encodeIndexRoot(uuid: Uint8Array): Uint8Array {
  const words = WORDS + hex(uuid)
  return Buffer.from(`${words} ${crc32(Buffer.from(words)).toString(16).padStart(8, '0')}\n`)
}

/** Undefined for what `encodeIndexRoot` does not write. */
export function decodeIndexRoot(bytes: Uint8Array): Uint8Array | undefined {
  const [, words, uuid, sum] = LINE.exec(Buffer.from(bytes).toString('latin1')) ?? []
  if (words === undefined || Number.parseInt(sum!, 16) !== crc32(Buffer.from(words))) return undefined
  return Uint8Array.from(Buffer.from(uuid!, 'hex'))
}

/** Where the index of a store is, or is to be made. */
export interface IndexPlace {
  readonly fs: Fs
  /** Before the index is made. STORE_CORRUPT if there was one, in a root that is not known any more. */
  begin(): Promise<void>
  /** Once the index is known to be this store's: writes the file where it is missing or damaged. */
  settle(): Promise<void>
  /** The file says nothing. The index may say the same. */
  readonly isDamaged: boolean
}

const nothing = async (): Promise<void> => undefined

/** STORE_UNAVAILABLE if the index is in a root that is not given. */
export async function indexPlace({
  fs,
  indexFs,
  roots = {},
}: Pick<StoreOptions, 'fs' | 'indexFs' | 'roots'>): Promise<IndexPlace> {
  const here: IndexPlace = { fs, begin: nothing, settle: nothing, isDamaged: false }
  const recorded = await readIndexRoot(fs)
  const given = roots.index
  if (indexFs === undefined || given === undefined) {
    if (recorded === undefined) return here
    const where = recorded === 'damaged' ? 'another root' : `the root ${hex(recorded)}`
    throw new StoreError('STORE_UNAVAILABLE', `the index of this store is in ${where}, and no index root is given`)
  }
  if (recorded === undefined && (await hasIndex(fs))) return here
  if (recorded instanceof Uint8Array && !same(recorded, given)) throw anotherRoot('index', recorded, given)
  const write = async (): Promise<void> => {
    if (!(recorded instanceof Uint8Array)) await fs.writeFile(INDEX_ROOT_FILE, encodeIndexRoot(given))
  }
  return {
    fs: indexFs,
    async begin() {
      if (recorded === 'damaged')
        throw new StoreError('STORE_CORRUPT', `${INDEX_ROOT_FILE} is damaged, and the given root holds no index`)
      await write()
    },
    settle: write,
    isDamaged: recorded === 'damaged',
  }
}

async function readIndexRoot(fs: Fs): Promise<Uint8Array | 'damaged' | undefined> {
  let bytes: Uint8Array
  try {
    bytes = await fs.readFile(INDEX_ROOT_FILE, { start: 0, end: LINE_MAX })
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
  return decodeIndexRoot(bytes) ?? 'damaged'
}

/** Whether anything is left of an index here. */
export async function hasIndex(fs: Fs): Promise<boolean> {
  if ((await fs.stat(`${INDEX_PATH}/control`)) !== undefined) return true
  for (const name of ['log', 'tables'])
    for await (const page of fs.list(`${INDEX_PATH}/${name}`)) if (page.length > 0) return true
  return false
}

/** STORE_UNAVAILABLE if the tree records another root than is given, the second tier's apart. */
export function mustBeOfRoots(values: Values, roots: StoreRoots): void {
  const recorded = recordedRoots(values)
  for (const role of ESSENTIAL) {
    const [before, now] = [recorded[role], roots[role]]
    if (before !== undefined && now !== undefined && !same(before, now)) throw anotherRoot(role, before, now)
  }
}

/** Records the roots that are given and were not yet, and compares the others with what is recorded. */
export async function checkRoots(
  index: Index,
  values: () => Values,
  roots: StoreRoots,
  options: {
    readonly readOnly: boolean
    /** An index root is this store's only where its index is in it. */
    readonly isIndexApart: boolean
    readonly onEvent: (event: { readonly kind: string; readonly message: string }) => void
  },
): Promise<void> {
  const { index: _, ...others } = roots
  const ours: StoreRoots = options.isIndexApart ? roots : others
  // Before anything is written: what is recorded with a wrong root would be believed later.
  mustBeOfRoots(values(), ours)
  const fresh = ROLES.filter((role) => ours[role] !== undefined && values().get(keyOf(role)) === undefined)
  if (fresh.length > 0 && !options.readOnly) {
    try {
      await using tx = index.begin()
      for (const role of fresh) {
        tx.expectValue(TREE_TABLE, keyOf(role), undefined)
        tx.setValue(TREE_TABLE, keyOf(role), ours[role])
      }
      await tx.commit()
    } catch (error) {
      if (!(error instanceof IndexError && error.code === 'INDEX_CONFLICT')) throw error
      await index.refresh()
    }
    mustBeOfRoots(values(), ours)
  }
  const recorded = recordedRoots(values())
  for (const role of ROLES) {
    const [before, now] = [recorded[role], ours[role]]
    if (ESSENTIAL.has(role) || before === undefined || now === undefined || same(before, now)) continue
    options.onEvent({ kind: 'root-changed', message: anotherRoot(role, before, now).message })
  }
}

function anotherRoot(role: Role, recorded: Uint8Array, given: Uint8Array): StoreError {
  return new StoreError(
    'STORE_UNAVAILABLE',
    `the ${role} root of this store is ${hex(recorded)}, and what is there is ${hex(given)}`,
  )
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

function hex(uuid: Uint8Array): string {
  return Buffer.from(uuid).toString('hex')
}
