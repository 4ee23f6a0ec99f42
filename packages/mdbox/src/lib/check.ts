/**
 * The consistency check: every byte of every file is read and verified, and every row's place holds its message.
 * Reads only. Damage is named by file, offset and message; bytes that no row names are a note. While the second tier
 * is away nothing is said of it: once the first is checked, the pass fails as reaching it does.
 */
import type { BoxFinding, BoxHost } from '@mailstead/box'
import { FsError, type FsFile } from '@mailstead/fs'
import type { Tier } from './altmove-tier.ts'
import { LINE_MAX, readFileLine, readHeader } from './format.ts'
import { JOURNAL } from './journal.ts'
import { FLAG_ALT, FLAGS_OF_RECORD, flagsOfRecord, type Places, type PlaceTable } from './place.ts'
import type { PurgeContext } from './purge.ts'
import { fileName } from './read.ts'
import { listFiles } from './scan.ts'
import { verifyRecord } from './walk.ts'
import { Window } from './window.ts'

/** Findings handed over at a time. */
const PAGE = 256

export async function* checkBox({
  host,
  places,
  primary,
  alt,
  journal,
}: PurgeContext): AsyncGenerator<readonly BoxFinding[]> {
  const { damage } = await journal.read()
  if (damage.length > 0) yield damage.map(({ offset, message }) => ofJournal(offset, message))
  let second: Tier | undefined
  let outage: FsError | undefined
  try {
    for await (const finding of alt.check()) yield [finding]
    second = await alt.present()
  } catch (error) {
    if (!(error instanceof FsError)) throw error
    outage = error
  }
  const isAway = outage !== undefined
  // A file that is missing in the first may be in the second, which cannot be looked at.
  for await (const page of checkTier(primary, host, places, second))
    yield isAway ? page.filter(({ kind }) => kind !== MISSING) : page
  if (outage !== undefined) throw outage
  if (second === undefined) return
  for await (const page of checkTier(second, host, places, primary)) {
    if (page.some(({ severity }) => severity === 'damage')) await alt.verify()
    yield page
  }
  await alt.verify()
}

const MISSING = 'file-missing'

/** It is written anew the next time something is expunged. */
function ofJournal(offset: number, message: string): BoxFinding {
  return { severity: 'damage', kind: 'journal-damaged', file: JOURNAL, offset, ref: undefined, message }
}

async function* checkTier(
  tier: Tier,
  host: BoxHost,
  table: PlaceTable,
  other: Tier | undefined,
): AsyncGenerator<readonly BoxFinding[]> {
  const places = await table.loaded()
  const rowsOf = new Map<number, number[]>()
  for (let row = 0; row < places.view.count; row++) {
    if (((places.flags.number(row) & FLAG_ALT) !== 0) !== tier.alt) continue
    const id = places.file.number(row)
    const rows = rowsOf.get(id)
    if (rows === undefined) rowsOf.set(id, [row])
    else rows.push(row)
  }
  const ids = new Set(await listFiles(tier.fs, tier.directory))
  for (const id of rowsOf.keys()) ids.add(id)
  for (const id of [...ids].sort((a, b) => a - b)) {
    let page: BoxFinding[] = []
    for await (const finding of checkFile(tier, other, id, places, rowsOf.get(id) ?? [])) {
      page.push(finding)
      if (page.length < PAGE) continue
      yield await stillTrue(page, host, table, places)
      page = []
    }
    if (page.length > 0) yield await stillTrue(page, host, table, places)
  }
}

/** Without what is said of places that their messages have left since: a purge went on while we were reading. */
async function stillTrue(
  page: readonly BoxFinding[],
  host: BoxHost,
  table: PlaceTable,
  places: Places,
): Promise<readonly BoxFinding[]> {
  if (page.every(({ ref }) => ref === undefined)) return page
  await host.refresh()
  const newest = await table.loaded()
  if (newest.view === places.view) return page
  return page.filter(({ ref }) => {
    if (ref === undefined) return true
    const [before, now] = [places.view.rowOf(ref), newest.view.rowOf(ref)]
    if (now < 0) return false
    return (
      newest.file.number(now) === places.file.number(before) &&
      newest.flags.number(now) === places.flags.number(before) &&
      newest.offset.number(now) === places.offset.number(before)
    )
  })
}

/** Undefined if it is not there. */
async function openIn(tier: Tier, id: number): Promise<FsFile | undefined> {
  try {
    return await tier.fs.open(`${tier.directory}/m.${id}`, 'read')
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}

async function* checkFile(
  tier: Tier,
  other: Tier | undefined,
  id: number,
  places: Places,
  rows: number[],
): AsyncGenerator<BoxFinding> {
  const name = fileName(tier.alt, id)
  const finding = (
    severity: BoxFinding['severity'],
    kind: string,
    offset: number,
    row: number,
    message: string,
  ): BoxFinding => ({ severity, kind, file: name, offset, ref: row < 0 ? undefined : places.view.uid(row), message })

  let opened = await openIn(tier, id)
  if (opened === undefined && other !== undefined && rows.length > 0) {
    opened = await openIn(other, id)
    if (opened !== undefined) yield finding('note', 'file-elsewhere', 0, -1, 'the file is in the other tier')
  }
  if (opened === undefined) {
    for (const row of rows)
      yield finding('damage', MISSING, places.offset.number(row), row, 'the file of this message is missing')
    return
  }
  await using file = opened
  const { size } = await file.stat()
  const window = new Window(file, size)
  const line = readFileLine(await window.bytes(0, Math.min(LINE_MAX, size)))
  if (rows.length === 0) {
    // Whatever it looks like: a crash may leave a file that was never flushed, and nobody was told of what it holds.
    yield finding('note', 'file-unnamed', 0, -1, `no message is known in this file of ${size} bytes`)
    return
  }
  if (line === undefined)
    yield finding('damage', 'first-line', 0, -1, 'the first line is damaged; the messages are judged by their rows')
  else if (!line.verified) {
    // Where it ends a message begins, dead or alive: else it is what damage left of one that had a checksum.
    const next = await window.bytes(line.length, Math.min(line.headerBytes, size - line.length))
    if (readHeader(next, 0, line.headerBytes) < 0)
      yield finding('damage', 'first-line', 0, -1, 'no message begins where the first line ends')
    else yield finding('note', 'first-line-unchecked', 0, -1, 'the first line has no checksum: somebody else wrote it')
  }

  rows.sort((a, b) => places.offset.number(a) - places.offset.number(b))
  let at = line?.length ?? places.offset.number(rows[0]!)
  let dead = 0
  for (const row of rows) {
    const offset = places.offset.number(row)
    const length = places.length.number(row)
    if (offset < at) yield finding('damage', 'overlap', offset, row, 'the place overlaps that of another message')
    else dead += offset - at
    at = Math.max(at, offset + length)
    if (offset + length > size) {
      yield finding('damage', 'message-missing', offset, row, `the file ends at ${size}, within or before the message`)
      continue
    }
    const found = await window.run(verifyRecord(offset, offset + length, line?.headerBytes))
    if (found.damage !== undefined) yield finding('damage', 'message-damaged', offset, row, found.damage)
    else if (found.length !== length)
      yield finding('damage', 'message-damaged', offset, row, `${found.length} bytes where the row has ${length}`)
    else if (found.sum !== places.sum.number(row))
      yield finding('damage', 'message-damaged', offset, row, 'header or metadata are not those of the row')
    else if ((places.flags.number(row) & FLAGS_OF_RECORD) !== flagsOfRecord(found))
      yield finding(
        'damage',
        'row-flags',
        offset,
        row,
        'the row is wrong about the line ends of the message, or its attachments',
      )
    else if (!found.checksummed)
      yield finding('note', 'message-unchecked', offset, row, 'the body has no checksum: somebody else wrote it')
  }
  dead += Math.max(0, size - at)
  if (dead > 0) yield finding('note', 'dead-bytes', 0, -1, `${dead} of ${size} bytes are not named by any row`)
}
