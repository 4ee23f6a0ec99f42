/**
 * Giving back the space of blobs that nobody uses, in bounded memory: a page of rows, then one of 256 directories at a time. The
 * argument why no used file is removed is in references.ts (rows, holds) and directory.ts (files that stores share).
 *
 *   1. The epoch is raised, if it was not for half of the grace period.
 *   2. Rows: those seen without uses for the first time get `since`; those that have had none for the grace period are dropped, if they still
 *      have none under the lock.
 *   3. Holds of old epochs that no row names are given up; files without any hold are removed.
 *      What neither names it nor was freed in step 2 is left from a crash, or its row is lost with newer messages (an index that was restored
 *      alone): whoever gave `references` is asked first.
 *   4. Temporary files that nobody has written for the grace period are removed.
 *
 * Each step stands alone: a crash anywhere leaves what the next sweep finds.
 */
import { toHex } from '@mailstead/bytes'
import type { BlobStore } from './blob-store.ts'
import type { References } from './check.ts'
import { BLOB_KEY_BYTES } from './contract.ts'
import type { Found } from './directory.ts'
import { epochOf, nameOfRef, refOfName } from './names.ts'
import { bumpedIn, bumpedValue, epochIn, epochValue, rowsOf, VALUE_BUMPED, VALUE_EPOCH } from './references.ts'

export interface SweepOptions {
  /** When it is aborted, what is under way is finished, and the rest left for another time. */
  readonly signal?: AbortSignal
  /** (default: as the store was opened with) */
  readonly graceMs?: number
  /**
   * References that there are whatever the table says, as of messages that a table which is older than they are does not know. Asked only where a
   * file is in no row and this sweep did not free it: what they name stays. (default: the table is right)
   */
  readonly references?: () => References
}

export interface SweepReport {
  /** Rows without uses that were dropped. */
  readonly rows: number
  /** Files of blobs that were removed, and their bytes on disk. */
  readonly blobs: number
  readonly bytes: number
  /** Files that nobody held when looked at first, and somebody did when it came to removing them. */
  readonly left: number
  /** Files that no row names and `references` do. */
  readonly unexplained: number
  /** Temporary files that were removed. */
  readonly temporary: number
}

export async function sweep(store: BlobStore, options: SweepOptions = {}): Promise<SweepReport> {
  const { graceMs = store.settings.graceMs, signal, references } = options
  const report = { rows: 0, blobs: 0, bytes: 0, left: 0, unexplained: 0, temporary: 0 }
  const { host, directory, settings } = store
  await host.refresh()
  await bump(store, graceMs)
  const freed = new Freed()
  await sweepRows(store, { graceMs, signal, report, freed })
  const suspects = references === undefined ? undefined : { freed, found: new Set<string>() }
  for (const prefix of await directory.prefixes()) {
    if (signal?.aborted === true) return report
    await sweepFiles(store, { prefix, report, suspects })
  }
  if (references !== undefined && suspects !== undefined && suspects.found.size > 0)
    await sweepSuspects(store, { found: suspects.found, references, signal, report })
  report.temporary = await directory.sweepTemporary(settings.now() - graceMs)
  return report
}

/** Raises the epoch if it is due. Whoever loses a race for that lets the winner's be enough. */
async function bump({ host, settings }: BlobStore, graceMs: number): Promise<void> {
  const { table } = host
  const now = settings.now()
  const bumped = bumpedIn(table.view)
  // A clock that was set back must not stop it for ever.
  if (bumped <= now && now - bumped < graceMs / 2) return
  const epoch = epochIn(table.view)
  try {
    await host.transact((tx) => {
      tx.expectValue(table.id, VALUE_EPOCH, epochValue(epoch))
      tx.setValue(table.id, VALUE_EPOCH, epochValue(epoch + 1))
      tx.setValue(table.id, VALUE_BUMPED, bumpedValue(now))
    })
  } catch (error) {
    await host.refresh()
    if (epochIn(table.view) === epoch) throw error
  }
}

/** Rows of one transaction: each costs a journal one pass over all rows. */
const DROPPED_AT_ONCE = 16_384

type Report = { rows: number; blobs: number; bytes: number; left: number; unexplained: number }

/** The first 6 bytes of a key: two that begin equally are taken for one, which keys do not by chance. */
function beginOf(key: Uint8Array): number {
  return ((key[0]! << 16) | (key[1]! << 8) | key[2]!) * 2 ** 24 + ((key[3]! << 16) | (key[4]! << 8) | key[5]!)
}

/** Keys whose rows were dropped, 8 bytes each. */
class Freed {
  #begins: Float64Array = new Float64Array(1024)
  #count = 0
  #sorted = true

  add(begin: number): void {
    if (this.#count === this.#begins.length) {
      const more = new Float64Array(2 * this.#count)
      more.set(this.#begins)
      this.#begins = more
    }
    this.#begins[this.#count++] = begin
    this.#sorted = false
  }

  has(key: Uint8Array): boolean {
    const begins = this.#begins.subarray(0, this.#count)
    if (!this.#sorted) begins.sort()
    this.#sorted = true
    const wanted = beginOf(key)
    let [from, to] = [0, begins.length]
    while (from < to) {
      const middle = (from + to) >>> 1
      if (begins[middle]! < wanted) from = middle + 1
      else to = middle
    }
    return begins[from] === wanted
  }
}

/** Files that a row should have named until now, as far as is known. */
interface Suspects {
  readonly freed: Freed
  readonly found: Set<string>
}

interface RowsSweep {
  readonly graceMs: number
  readonly signal: AbortSignal | undefined
  readonly report: Report
  readonly freed: Freed
}

async function sweepRows(store: BlobStore, { graceMs, signal, report, freed }: RowsSweep): Promise<void> {
  const { host, settings } = store
  const { table } = host
  const now = Math.floor(settings.now() / 1000)
  // Numbers, not rows: there are many, and they wait.
  let uids: number[] = []
  let begins: number[] = []
  const dropRipe = async (): Promise<void> => {
    if (uids.length === 0) return
    const [dropped, keys] = [uids, begins]
    uids = []
    begins = []
    await host.transact((tx) => tx.dropUnused(table.id, dropped))
    await host.refresh()
    for (let i = 0; i < dropped.length; i++) {
      if (table.view.rowOf(dropped[i]!) >= 0) continue
      report.rows++
      freed.add(keys[i]!)
    }
  }
  for await (const rows of rowsOf(table)) {
    if (signal?.aborted === true) break
    const idle = rows.filter(({ uses, since }) => uses === 0 && since === 0)
    const again = rows.filter(({ uses, since }) => uses > 0 && since !== 0)
    for (const row of rows) {
      if (row.uses > 0 || row.since === 0 || row.since * 1000 + graceMs > now * 1000) continue
      if (settings.planted === 'the file goes before the frame')
        await store.directory.removeOwn(`${toHex(row.key)}-${toHex(row.instance)}`)
      uids.push(row.uid)
      begins.push(beginOf(row.key))
    }
    if (uids.length >= DROPPED_AT_ONCE) await dropRipe()
    if (idle.length + again.length === 0) continue
    try {
      await host.transact((tx) => {
        for (const { uid } of idle) tx.setColumn(table.id, 'since', uid, now)
        for (const { uid } of again) tx.setColumn(table.id, 'since', uid, 0)
      })
    } catch (error) {
      // Another sweep was here meanwhile: what it left is for the next one.
      await host.refresh()
      if ([...idle, ...again].every(({ uid }) => table.view.rowOf(uid) >= 0)) throw error
    }
  }
  await dropRipe()
}

interface FilesSweep {
  readonly prefix: string
  readonly report: Report
  /** Undefined: whatever no row names goes. */
  readonly suspects: Suspects | undefined
  /** (default: every file in the prefix) */
  readonly blob?: string
}

async function sweepFiles(store: BlobStore, { prefix, report, suspects, blob }: FilesSweep): Promise<void> {
  const { directory, host, settings } = store
  const found = await directory.list(prefix, blob)
  if (found.size === 0) return
  // The list first, then what the rows say: a hold that is in the list and old has its row by now, or never gets one.
  await host.refresh()
  const oldest = settings.planted === 'any epoch is swept' ? Infinity : epochIn(host.table.view) - 2
  for (const entry of found.values()) {
    if (!directory.shared) {
      const ref = refOfName(entry.blob)
      if (epochOf(ref.subarray(BLOB_KEY_BYTES)) > oldest || !entry.present) continue
      if (await isNamed(store, entry.blob)) continue
      if (isSuspect(suspects, entry.blob)) continue
      report.bytes += (await directory.fs.stat(directory.pathOf(entry.blob)))?.size ?? 0
      await directory.removeOwn(entry.blob)
      report.blobs++
      continue
    }
    const held = await releaseHolds(store, entry, { oldest, suspects })
    if (held > 0) continue
    const size = (await directory.fs.stat(directory.pathOf(entry.blob)))?.size ?? 0
    if ((await directory.removeUnheld(entry.blob)) === 'left') report.left++
    else if (entry.present) {
      report.blobs++
      report.bytes += size
    }
  }
}

/** Whether it is looked at later, since nobody has said yet why no row names it. */
function isSuspect(suspects: Suspects | undefined, blob: string): boolean {
  if (suspects === undefined || suspects.freed.has(refOfName(blob))) return false
  suspects.found.add(blob)
  return true
}

interface SuspectsSweep {
  readonly found: Set<string>
  readonly references: () => References
  readonly signal: AbortSignal | undefined
  readonly report: Report
}

async function sweepSuspects(store: BlobStore, { found, references, signal, report }: SuspectsSweep): Promise<void> {
  const { beyond } = store
  for (const blob of beyond) if (!found.has(blob)) beyond.delete(blob)
  // What was looked for once is not again while the store is open: it takes reading all messages.
  if (![...found].every((blob) => beyond.has(blob))) {
    beyond.clear()
    for await (const page of references()) {
      if (signal?.aborted === true) return
      for (const ref of page) if (found.has(nameOfRef(ref))) beyond.add(nameOfRef(ref))
    }
  }
  for (const blob of found) {
    if (signal?.aborted === true) return
    if (beyond.has(blob)) report.unexplained++
    else await sweepFiles(store, { prefix: blob.slice(0, 2), blob, report, suspects: undefined })
  }
}

/** Gives up those of this store's holds that no row names or can; resolves to how many holds are left, of all stores. */
async function releaseHolds(
  store: BlobStore,
  { blob, holds }: Found,
  { oldest, suspects }: { readonly oldest: number; readonly suspects: Suspects | undefined },
): Promise<number> {
  const own = toHex(store.host.storeId)
  let held = holds.length
  for (const { store: holder, hold } of holds) {
    if (holder !== own || epochOf(Buffer.from(hold, 'hex')) > oldest || (await isNamed(store, blob, hold))) continue
    if (isSuspect(suspects, blob)) continue
    await store.directory.release(blob, hold)
    held--
  }
  return held
}

/** Whether a row names the file, or the hold. */
async function isNamed({ keys }: BlobStore, blob: string, hold?: string): Promise<boolean> {
  const ref = refOfName(blob)
  const rows = await keys.find(ref.subarray(0, BLOB_KEY_BYTES), ref.subarray(BLOB_KEY_BYTES))
  return hold === undefined ? rows.length > 0 : rows.some((row) => toHex(row.hold) === hold)
}
