/**
 * What a process leaves behind that ends in the middle: messages in its files that no row names. (See slot.ts for how it is known
 * which files were its own.) Whoever has its slot after it writes them into the expunge journal: without the index nobody could
 * tell them from mail. Files that hold nothing else are condemned, for the next purge.
 *
 * Only what was written by that process is looked at: of other files nothing is concluded, since an index that is lost or
 * older may be the only reason that no row names what is in them.
 *
 * MEMORY   a number for each message in the files at hand, and a window of one of them.
 */
import { FsError } from '@mailstead/fs'
import type { Tier } from './altmove-tier.ts'
import { put } from './journal.ts'
import type { Dead } from './journal-format.ts'
import { condemn, type PurgeContext } from './purge.ts'
import { listFiles } from './scan.ts'
import { slotOf, type Written } from './slot.ts'
import { walkFile } from './walk.ts'
import { Window } from './window.ts'

/** A file that is all messages with rows has nothing but its first line besides, in bytes; no message is so short. */
const LINE_ALLOWANCE = 64

interface Suspect {
  readonly tier: Tier
  readonly id: number
  /** What is before this was there already. */
  readonly start: number
  readonly size: number
  /** Bytes that rows name, and where they begin. */
  covered: number
  readonly offsets: Set<number>
}

/** False if it cannot be told now: rows may be missing, or the second tier is away. Nobody may append to the files of this slot. */
export async function settleLeftovers(
  context: PurgeContext,
  slot: number,
  written: Written,
  files: () => Promise<ReadonlySet<number> | undefined>,
): Promise<boolean> {
  const { host, places: table, journal } = context
  await host.refresh()
  if (host.isIncomplete === true || host.rebuilding === true) return false
  let tiers: readonly Tier[]
  try {
    const alt = await context.alt.present()
    tiers = alt === undefined ? [context.primary] : [context.primary, alt]
  } catch (error) {
    if (error instanceof FsError) return false
    throw error
  }
  const suspects = new Map<number, Suspect>()
  for (const tier of tiers)
    for (const id of await listFiles(tier.fs, tier.directory)) {
      const start = written.continued.get(id) ?? (id >= written.from ? 0 : undefined)
      if (slotOf(id) !== slot || start === undefined) continue
      const stat = await tier.fs.stat(`${tier.directory}/m.${id}`)
      if (stat !== undefined && stat.size > start)
        suspects.set(id, { tier, id, start, size: stat.size, covered: 0, offsets: new Set() })
    }
  if (suspects.size === 0) return true
  const { view, file, offset, length } = await table.loaded()
  for (let row = 0; row < view.count; row++) {
    const suspect = suspects.get(file.number(row))
    if (suspect === undefined || offset.number(row) < suspect.start) continue
    suspect.covered += length.number(row)
    suspect.offsets.add(offset.number(row))
  }
  const strays: Dead = new Map()
  const empty: number[] = []
  for (const suspect of suspects.values()) {
    const { id, start, size, covered, offsets } = suspect
    if (size - start - covered <= (start === 0 ? LINE_ALLOWANCE : 0)) continue
    await straysIn(suspect, strays)
    if (start === 0 && offsets.size === 0) empty.push(id)
  }
  if (strays.size > 0) await journal.write(table, files, strays)
  if (empty.length > 0) await host.transact((tx) => condemn(host, tx, empty))
  return true
}

async function straysIn({ tier, id, start, size, offsets }: Suspect, strays: Dead): Promise<void> {
  await using file = await tier.fs.open(`${tier.directory}/m.${id}`, 'read')
  for await (const list of new Window(file, size).walk(walkFile(size)))
    for (const found of list) {
      if ('line' in found || found.damage !== undefined) continue
      if (found.offset >= start && !offsets.has(found.offset)) put(strays, id, found.offset, found.sum)
    }
}
