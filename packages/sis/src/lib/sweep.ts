/**
 * Giving back the space of blobs that nobody uses, in bounded memory: a page of rows, then one of 256 directories at a time. The
 * argument why no used file is removed is in references.ts (rows, holds) and directory.ts (files that stores share).
 *
 *   1. The epoch is raised, if it was not for half of the grace period.
 *   2. Rows: those seen without uses for the first time get `since`; those that have had none for the grace period are dropped, if they still
 *      have none under the lock.
 *   3. Holds of old epochs that no row names are given up; files without any hold are removed.
 *   4. Temporary files that nobody has written for the grace period are removed.
 *
 * Each step stands alone: a crash anywhere leaves what the next sweep finds.
 */
import { toHex } from '@mailstead/bytes'
import type { BlobStore } from './blob-store.ts'
import { BLOB_KEY_BYTES } from './contract.ts'
import type { Found } from './directory.ts'
import { epochOf, refOfName } from './names.ts'
import { bumpedIn, bumpedValue, epochIn, epochValue, rowsOf, VALUE_BUMPED, VALUE_EPOCH } from './references.ts'

export interface SweepOptions {
  /** When it is aborted, what is under way is finished, and the rest left for another time. */
  readonly signal?: AbortSignal
  /** (default: as the store was opened with) */
  readonly graceMs?: number
}

export interface SweepReport {
  /** Rows without uses that were dropped. */
  readonly rows: number
  /** Files of blobs that were removed, and their bytes on disk. */
  readonly blobs: number
  readonly bytes: number
  /** Files that nobody held when looked at first, and somebody did when it came to removing them. */
  readonly left: number
  /** Temporary files that were removed. */
  readonly temporary: number
}

export async function sweep(store: BlobStore, options: SweepOptions = {}): Promise<SweepReport> {
  const { graceMs = store.settings.graceMs, signal } = options
  const report = { rows: 0, blobs: 0, bytes: 0, left: 0, temporary: 0 }
  const { host, directory, settings } = store
  await host.refresh()
  await bump(store, graceMs)
  await sweepRows(store, graceMs, signal, report)
  for (const prefix of await directory.prefixes()) {
    if (signal?.aborted === true) return report
    await sweepPrefix(store, prefix, report)
  }
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

type Report = { rows: number; blobs: number; bytes: number; left: number }

async function sweepRows(
  store: BlobStore,
  graceMs: number,
  signal: AbortSignal | undefined,
  report: Report,
): Promise<void> {
  const { host, settings } = store
  const { table } = host
  const now = Math.floor(settings.now() / 1000)
  let ripe: number[] = []
  const dropRipe = async (): Promise<void> => {
    if (ripe.length === 0) return
    const dropped = ripe
    ripe = []
    await host.transact((tx) => tx.dropUnused(table.id, dropped))
    await host.refresh()
    report.rows += dropped.filter((uid) => table.view.rowOf(uid) < 0).length
  }
  for await (const rows of rowsOf(table)) {
    if (signal?.aborted === true) break
    const idle = rows.filter(({ uses, since }) => uses === 0 && since === 0)
    const again = rows.filter(({ uses, since }) => uses > 0 && since !== 0)
    for (const row of rows) {
      if (row.uses > 0 || row.since === 0 || row.since * 1000 + graceMs > now * 1000) continue
      if (settings.planted === 'the file goes before the frame')
        await store.directory.removeOwn(`${toHex(row.key)}-${toHex(row.instance)}`)
      ripe.push(row.uid)
    }
    if (ripe.length >= DROPPED_AT_ONCE) await dropRipe()
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

async function sweepPrefix(store: BlobStore, prefix: string, report: Report): Promise<void> {
  const { directory, host, settings } = store
  const found = await directory.list(prefix)
  if (found.size === 0) return
  // The list first, then what the rows say: a hold that is in the list and old has its row by now, or never gets one.
  await host.refresh()
  const oldest = settings.planted === 'any epoch is swept' ? Infinity : epochIn(host.table.view) - 2
  const own = toHex(host.storeId)
  for (const entry of found.values()) {
    if (!directory.shared) {
      const ref = refOfName(entry.blob)
      if (epochOf(ref.subarray(BLOB_KEY_BYTES)) > oldest || !entry.present) continue
      if (await isNamed(store, entry.blob)) continue
      report.bytes += (await directory.fs.stat(directory.pathOf(entry.blob)))?.size ?? 0
      await directory.removeOwn(entry.blob)
      report.blobs++
      continue
    }
    const held = await releaseHolds(store, entry, own, oldest)
    if (held > 0) continue
    const size = (await directory.fs.stat(directory.pathOf(entry.blob)))?.size ?? 0
    if ((await directory.removeUnheld(entry.blob)) === 'left') report.left++
    else if (entry.present) {
      report.blobs++
      report.bytes += size
    }
  }
}

/** Gives up those of this store's holds that no row names or can; resolves to how many holds are left, of all stores. */
async function releaseHolds(store: BlobStore, { blob, holds }: Found, own: string, oldest: number): Promise<number> {
  let held = holds.length
  for (const { store: holder, hold } of holds) {
    if (holder !== own || epochOf(Buffer.from(hold, 'hex')) > oldest || (await isNamed(store, blob, hold))) continue
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
