/**
 * Asking whether everything is there, and making the table agree with those who use it.
 *
 * `check` reads: every byte of every blob, each row's file, each file's row, and, told all references, each count. `repair` reads the same, and
 * writes: counts, rows that are missing, rows whose file is lost or damaged while another has the same bytes. Counts are derived: whoever can tell all
 * references can lose the table. Both in memory of some 60 bytes a row.
 */
import { toHex } from '@mailstead/bytes'
import { FsError } from '@mailstead/fs'
import { BlobFile } from './blob-read.ts'
import type { BlobStore } from './blob-store.ts'
import { BLOB_KEY_BYTES } from './contract.ts'
import { SisError } from './error.ts'
import { epochOf, idOf, nameOfRef, refOfName } from './names.ts'
import { type BlobRow, epochIn, refOf, rowsOf, VALUE_SALVAGED } from './references.ts'

/** What is wrong. `note`: nothing is lost; `damage`: something is, or would be. */
export interface SisFinding {
  readonly severity: 'note' | 'damage'
  /**
   * `blob-missing`: a row, or a reference, whose bytes no file has. `blob-damaged`: a file that fails its checksums. `blob-orphaned`: a
   * file that nobody names, older than those of savers at work. `blob-unreferenced`: a row without uses that waits for its grace period.
   * `blob-elsewhere`: a row whose file is lost or damaged while another has the same bytes. `hold-missing`: a file of a shared directory that this
   * store uses and does not hold. `hold-orphaned`: one that it holds and does not use. `blob-condemned`: nobody may begin to use the file.
   * `row-missing`, `uses-miscounted`: the table and the references disagree. `domain-damaged`: the key of the domain is damaged or missing.
   * `name-unknown`: a file that is none of ours.
   */
  readonly kind: string
  readonly file: string
  /** Hex of the reference concerned, if any. */
  readonly ref: string | undefined
  readonly message: string
}

/** All references there are, in pages: one for each use. */
export type References = AsyncIterable<readonly Uint8Array[]>

export interface CheckOptions {
  /** Without them uses are not counted. */
  readonly references?: References
  /** Read every byte of every blob; else only that the files are there and their ends are those of blobs. (default true) */
  readonly bytes?: boolean
  /** Look at blobs at all; else only uses are counted. (default true) */
  readonly blobs?: boolean
  readonly signal?: AbortSignal
}

export async function* check(store: BlobStore, options: CheckOptions = {}): AsyncGenerator<readonly SisFinding[]> {
  const { references, blobs = true } = options
  await store.host.refresh()
  if (blobs) {
    await store.mustBeHere()
    yield* checkDomain(store)
    yield* checkBlobs(store, options)
  }
  if (references !== undefined) yield* checkUses(store, references)
}

async function* checkDomain(store: BlobStore): AsyncGenerator<readonly SisFinding[]> {
  try {
    await store.ready()
  } catch (error) {
    if (!(error instanceof SisError)) throw error
    const file = error.file ?? store.directory.path
    const message = `${error.message}: what is there is read, and nothing can be saved`
    yield [{ severity: 'damage', kind: 'domain-damaged', file, ref: undefined, message }]
  }
}

async function* checkBlobs(
  store: BlobStore,
  { bytes = true, signal }: CheckOptions,
): AsyncGenerator<readonly SisFinding[]> {
  const { host, directory } = store
  for (const prefix of await directory.prefixes()) {
    if (signal?.aborted === true) return
    const findings = await checkPrefix(store, prefix, bytes)
    if (findings.length > 0) yield findings
  }
  for await (const rows of rowsOf(host.table)) {
    if (signal?.aborted === true) return
    const findings: SisFinding[] = []
    for (const row of rows) {
      const blob = nameOfRef(refOf(row))
      const say = finder(findings, directory.pathOf(blob), blob)
      if (row.uses === 0) say('note', 'blob-unreferenced', 'nobody uses it any more; a sweep removes it later')
      const isThere = (await directory.fs.stat(directory.pathOf(blob))) !== undefined
      // What is damaged was said of the file.
      if (isThere && !(bytes && store.damaged.has(blob))) continue
      const other = await elsewhere(store, row.key, { not: blob, bytes })
      const how = isThere ? 'is damaged' : 'is lost'
      if (other !== undefined) say('damage', 'blob-elsewhere', `${how}; ${other} has the same bytes`)
      else if (!isThere && row.uses > 0) say('damage', 'blob-missing', `${how}, and ${row.uses} messages need it`)
    }
    if (findings.length > 0) yield findings
  }
}

async function* checkUses(store: BlobStore, references: References): AsyncGenerator<readonly SisFinding[]> {
  const { host, directory } = store
  const counted = await count(store, references)
  const findings: SisFinding[] = []
  for (const [blob, uses] of counted.without)
    finder(findings, directory.pathOf(blob), blob)('damage', 'row-missing', `has ${uses} references, and no row`)
  if (findings.length > 0) yield findings
  for await (const rows of rowsOf(host.table)) {
    const page: SisFinding[] = []
    for (const row of rows) {
      const uses = counted.by.get(row.uid) ?? 0
      if (uses === row.uses) continue
      const blob = nameOfRef(refOf(row))
      finder(page, directory.pathOf(blob), blob)(
        'damage',
        'uses-miscounted',
        `has ${row.uses} uses, and ${uses} references`,
      )
    }
    if (page.length > 0) yield page
  }
}

type Say = (severity: SisFinding['severity'], kind: string, message: string) => void

function finder(findings: SisFinding[], file: string, blob: string | undefined): Say {
  const ref = blob === undefined ? undefined : toHex(refOfName(blob))
  return (severity, kind, message) => findings.push({ severity, kind, file, ref, message })
}

async function checkPrefix(store: BlobStore, prefix: string, bytes: boolean): Promise<SisFinding[]> {
  const { directory, host, domain } = store
  const findings: SisFinding[] = []
  const own = toHex(host.storeId)
  const found = await directory.list(prefix)
  await host.refresh()
  const oldest = epochIn(host.table.view) - 2
  for (const { blob, present, dead, holds } of found.values()) {
    const ref = refOfName(blob)
    const key = ref.subarray(0, BLOB_KEY_BYTES)
    const say = finder(findings, directory.pathOf(blob), blob)
    const rows = await store.keys.find(key, ref.subarray(BLOB_KEY_BYTES))
    const held = new Set(holds.filter((hold) => hold.store === own).map(({ hold }) => hold))
    if (directory.shared) {
      for (const row of rows) if (!held.delete(toHex(row.hold))) say('damage', 'hold-missing', 'is used and not held')
      for (const hold of held)
        if (epochOf(Buffer.from(hold, 'hex')) <= oldest) say('note', 'hold-orphaned', `is held as ${hold} and not used`)
      if (dead) say('note', 'blob-condemned', present ? 'gets no new users' : 'is gone, and its mark is not')
      if (present && holds.length === 0) say('note', 'blob-orphaned', 'is held by nobody')
    } else if (rows.length === 0 && epochOf(ref.subarray(BLOB_KEY_BYTES)) <= oldest)
      say('note', 'blob-orphaned', 'is named by no row')
    // What only others use they check themselves: else each of many stores would read everything.
    if (!present || (directory.shared && rows.length === 0)) continue
    try {
      if (bytes) {
        if ((await directory.verify(blob, key, domain)) !== undefined) store.damaged.delete(blob)
      } else await (await BlobFile.open(directory.fs, directory.pathOf(blob), key))?.[Symbol.asyncDispose]()
    } catch (error) {
      if (!(error instanceof SisError)) throw error
      store.noteDamage(blob)
      const isUsed = rows.some(({ uses }) => uses > 0)
      say(isUsed ? 'damage' : 'note', 'blob-damaged', `cannot be read: ${reason(error, directory.pathOf(blob))}`)
    }
  }
  return findings
}

/** What is said of the file, without its path, which stands beside it. */
function reason({ message }: Error, path: string): string {
  return message.startsWith(`${path} `) ? message.slice(path.length + 1) : message
}

interface Fault {
  readonly kind: 'blob-missing' | 'blob-damaged'
  readonly why: string
}

/** Why the file cannot be read; undefined: every byte of it can. */
async function faultOf({ directory, domain }: BlobStore, blob: string, key: Uint8Array): Promise<Fault | undefined> {
  try {
    if ((await directory.verify(blob, key, domain)) !== undefined) return undefined
    return { kind: 'blob-missing', why: 'is lost' }
  } catch (error) {
    // A device that cannot read the file may still read another.
    if (!(error instanceof SisError || (error instanceof FsError && error.code === 'FS_IO'))) throw error
    return { kind: 'blob-damaged', why: `cannot be read (${reason(error, directory.pathOf(blob))})` }
  }
}

/** Another file with these bytes: all of it whole, or, without `bytes`, its ends. */
async function elsewhere(
  store: BlobStore,
  key: Uint8Array,
  { not, bytes }: { readonly not: string; readonly bytes: boolean },
): Promise<string | undefined> {
  const { directory } = store
  const hex = toHex(key)
  for (const { blob, present } of (await directory.list(hex.slice(0, 2), `${hex}-`)).values()) {
    if (!present || blob === not) continue
    const isWhole = bytes
      ? (await faultOf(store, blob, key)) === undefined
      : (await directory.probe(blob, key)) !== undefined
    if (isWhole) return blob
  }
  return undefined
}

interface Counted {
  /** By UID of the row. */
  readonly by: Map<number, number>
  /** References that no row has, by the name of the file they name. */
  readonly without: Map<string, number>
}

async function count({ keys }: BlobStore, references: References): Promise<Counted> {
  const by = new Map<number, number>()
  const without = new Map<string, number>()
  for await (const page of references)
    for (const ref of page) {
      const key = ref.subarray(0, BLOB_KEY_BYTES)
      const exact = await keys.find(key, ref.subarray(BLOB_KEY_BYTES))
      const rows = exact.length > 0 ? exact : await keys.find(key)
      // Several rows may have the same file: whichever still lacks a reference gets it.
      const row = rows.find(({ uid, uses }) => (by.get(uid) ?? 0) < uses) ?? rows[0]
      if (row === undefined) without.set(nameOfRef(ref), (without.get(nameOfRef(ref)) ?? 0) + 1)
      else by.set(row.uid, (by.get(row.uid) ?? 0) + 1)
    }
  return { by, without }
}

export interface RepairOptions {
  /** There may be references besides: uses that are higher than what is told stay. (default false) */
  readonly incomplete?: boolean
}

/**
 * Makes the table agree with all references there are. Nobody else may save or drop meanwhile. Resolves to what was found and, where it
 * could be, set right; bytes that no file has (`blob-missing`), or only one that is damaged (`blob-damaged`), are named and stay so.
 */
export async function repair(
  store: BlobStore,
  references: References,
  options: { readonly incomplete?: boolean | (() => boolean) } = {},
): Promise<readonly SisFinding[]> {
  const { host, directory } = store
  const { table } = host
  const findings: SisFinding[] = []
  /** Files that were named: several rows may have the same. */
  const named = new Set<string>()
  await host.refresh()
  const { by, without } = await count(store, references)
  // Asked once all were told.
  const incomplete = typeof options.incomplete === 'function' ? options.incomplete() : options.incomplete === true
  for await (const rows of rowsOf(table)) {
    const changed: { readonly uid: number; readonly columns: Readonly<Record<string, Uint8Array | number>> }[] = []
    for (const row of rows) {
      const columns: Record<string, Uint8Array | number> = {}
      const blob = nameOfRef(refOf(row))
      const say = finder(findings, directory.pathOf(blob), blob)
      const told = by.get(row.uid) ?? 0
      const uses = incomplete ? Math.max(told, row.uses) : told
      if (uses !== row.uses) {
        say('damage', 'uses-miscounted', `had ${row.uses} uses, and has ${uses}`)
        columns['uses'] = uses
      }
      if (uses > 0 && row.since !== 0) columns['since'] = 0
      await relink(store, row, { uses, columns, say, named })
      if (Object.keys(columns).length > 0) changed.push({ uid: row.uid, columns })
    }
    if (changed.length === 0) continue
    await host.transact((tx) => {
      for (const { uid, columns } of changed)
        for (const [name, value] of Object.entries(columns)) tx.setColumn(table.id, name, uid, value)
    })
    await host.refresh()
  }
  const missing: Record<string, Uint8Array | number>[] = []
  for (const [blob, uses] of without) {
    const key = refOfName(blob).subarray(0, BLOB_KEY_BYTES)
    const say = finder(findings, directory.pathOf(blob), blob)
    const fault = await faultOf(store, blob, key)
    const whole = fault === undefined ? blob : await elsewhere(store, key, { not: blob, bytes: true })
    if (whole === undefined) say('damage', fault!.kind, `${fault!.why}, and ${uses} messages need it`)
    // Of one that is damaged the rest can still be read.
    const name = whole ?? ((await directory.probe(blob, key)) === undefined ? undefined : blob)
    if (name === undefined) continue
    say('damage', 'row-missing', `had ${uses} references and no row`)
    missing.push({ ...(await rowFor(store, name, key)), since: 0, uses })
  }
  const mark = table.view.values?.get(VALUE_SALVAGED)
  // A message that nobody told of may need a blob whose row was lost.
  const salvaged = mark !== undefined && !(incomplete && mark[0] === 1)
  if (missing.length > 0 || salvaged)
    await host.transact((tx) => {
      for (const columns of missing) tx.append(table.id, { columns })
      if (salvaged) tx.setValue(table.id, VALUE_SALVAGED, undefined)
    })
  await host.refresh()
  return findings
}

/** What a row says of a file that is there, which is held for it. */
async function rowFor(
  { directory, host, settings }: BlobStore,
  blob: string,
  key: Uint8Array,
): Promise<Record<string, Uint8Array | number>> {
  const instance = refOfName(blob).slice(BLOB_KEY_BYTES)
  let hold = instance
  if (directory.shared) {
    hold = Buffer.from(idOf(epochIn(host.table.view), settings.random))
    await directory.hold(blob, toHex(hold))
  }
  const file = await BlobFile.open(directory.fs, directory.pathOf(blob), key)
  if (file === undefined) throw new SisError('SIS_NOT_FOUND', `${blob} went away`, { ref: blob })
  await using opened = file
  return { key: key.slice(), instance, hold, size: opened.size, stored: opened.stored }
}

interface Relinked {
  readonly uses: number
  /** What of the row is to be changed. */
  readonly columns: Record<string, Uint8Array | number>
  readonly say: Say
  readonly named: Set<string>
}

/** Lets a row name a file that is whole, and holds it. */
async function relink(store: BlobStore, row: BlobRow, { uses, columns, say, named }: Relinked): Promise<void> {
  const blob = nameOfRef(refOf(row))
  const fault = await faultOf(store, blob, row.key)
  if (fault?.kind === 'blob-damaged') store.noteDamage(blob)
  const other = fault === undefined ? undefined : await elsewhere(store, row.key, { not: blob, bytes: true })
  if (fault !== undefined && other !== undefined) {
    say('damage', 'blob-elsewhere', `${fault.why}; ${other} has the same bytes`)
    const { instance, hold, stored } = await rowFor(store, other, row.key)
    Object.assign(columns, { instance, hold, stored })
    return
  }
  if (fault !== undefined && uses > 0 && !named.has(blob)) {
    say('damage', fault.kind, `${fault.why}, and ${uses} messages need it`)
    named.add(blob)
  }
  if (fault?.kind !== 'blob-missing') await holdAgain(store, row, say)
}

/** Holds the file of a row, if it is not held. */
async function holdAgain({ directory, host }: BlobStore, row: BlobRow, say: Say): Promise<void> {
  if (!directory.shared) return
  const blob = nameOfRef(refOf(row))
  const own = toHex(host.storeId)
  const holds = (await directory.list(blob.slice(0, 2), blob)).get(blob)?.holds ?? []
  if (holds.some(({ store: holder, hold }) => holder === own && hold === toHex(row.hold))) return
  say('damage', 'hold-missing', 'was used and not held')
  await directory.hold(blob, toHex(row.hold))
}
