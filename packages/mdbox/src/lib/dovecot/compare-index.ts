/** Two indexes that have to be of the same moment: each difference, told in words. */
import { u32 } from './binary.ts'
import { SYSTEM_FLAGS } from './flags.ts'
import { type MailIndex, NEXT_UID_AT, UID_VALIDITY_AT } from './mail-index.ts'

/** Record data that Dovecot keeps once for a message and never changes by itself. */
const RECORDS = ['guid', 'mdbox', 'map', 'ref', 'list'] as const
/** The same of headers. */
const HEADERS = ['mdbox-hdr', 'dbox-hdr', 'list', 'hdr-pop3-uidl', 'box-name'] as const

/** Calls `report` for each difference of a snapshot from what the log says. */
export function compareIndexes(
  snapshot: MailIndex,
  log: MailIndex,
  report: (message: string, uid: number | undefined) => void,
): void {
  compareFields(snapshot, log, report)
  let a = 0
  let b = 0
  for (;;) {
    while (a < snapshot.count && snapshot.gone[a] !== 0) a++
    while (b < log.count && log.gone[b] !== 0) b++
    if (a >= snapshot.count && b >= log.count) return
    const uidA = a < snapshot.count ? snapshot.uids[a]! : Number.POSITIVE_INFINITY
    const uidB = b < log.count ? log.uids[b]! : Number.POSITIVE_INFINITY
    if (uidA < uidB) {
      report('the snapshot has this message, the log has not', uidA)
      a++
    } else if (uidB < uidA) {
      report('the log has this message, the snapshot has not', uidB)
      b++
    } else {
      compareRows(snapshot, a, log, b, report)
      a++
      b++
    }
  }
}

function compareFields(
  snapshot: MailIndex,
  log: MailIndex,
  report: (message: string, uid: number | undefined) => void,
): void {
  for (const [at, what] of [
    [UID_VALIDITY_AT, 'UIDVALIDITY'],
    [NEXT_UID_AT, 'UIDNEXT'],
  ] as const) {
    const a = snapshot.headerField(at)
    const b = log.headerField(at)
    if (a !== b) report(`${what} is ${a} in the snapshot, ${b} in the log`, undefined)
  }
  for (const name of HEADERS) {
    const a = snapshot.extension(name)?.header
    const b = log.extension(name)?.header
    if (a === undefined || b === undefined ? a !== b : !equalButZeros(a, b))
      report(`the header of ${name} is another one in the snapshot than in the log`, undefined)
  }
}

function compareRows(
  snapshot: MailIndex,
  a: number,
  log: MailIndex,
  b: number,
  report: (message: string, uid: number | undefined) => void,
): void {
  const uid = snapshot.uids[a]!
  if (((snapshot.flags[a]! ^ log.flags[b]!) & SYSTEM_FLAGS) !== 0)
    report(
      `flags are ${snapshot.flags[a]! & SYSTEM_FLAGS} in the snapshot, ${log.flags[b]! & SYSTEM_FLAGS} in the log`,
      uid,
    )
  const mine = snapshot.keywordsOf(a)
  const theirs = log.keywordsOf(b)
  if (mine.length > 0 || theirs.length > 0) {
    const left = [...mine].sort().join(' ')
    const right = [...theirs].sort().join(' ')
    if (left !== right) report(`keywords are ‘${left}’ in the snapshot, ‘${right}’ in the log`, uid)
  }
  if (snapshot.modSeqs[a] !== log.modSeqs[b] && snapshot.extension('modseq') !== undefined)
    report(`the modseq is ${snapshot.modSeqs[a]} in the snapshot, ${log.modSeqs[b]} in the log`, uid)
  for (const name of RECORDS) {
    const left = snapshot.extension(name)
    const right = log.extension(name)
    if (left === undefined || right === undefined) continue
    if (!equalButZeros(snapshot.data(left, a), log.data(right, b)))
      report(`${name} is another one in the snapshot than in the log`, uid)
  }
  const cache = snapshot.extension('vsize')
  const other = log.extension('vsize')
  if (cache?.stride === 4 && other?.stride === 4) {
    const left = valueOf(snapshot, cache, a)
    const right = valueOf(log, other, b)
    if (left !== right && left !== 0 && right !== 0)
      report('the size is another one in the snapshot than in the log', uid)
  }
}

function valueOf(index: MailIndex, extension: Parameters<MailIndex['data']>[0], row: number): number {
  const data = index.data(extension, row)
  return data.length < 4 ? 0 : u32(data, 0, index.little)
}

/** Whether two are equal, the shorter one continued with zeros. */
function equalButZeros(a: Uint8Array, b: Uint8Array): boolean {
  const length = Math.max(a.length, b.length)
  for (let at = 0; at < length; at++) if ((a[at] ?? 0) !== (b[at] ?? 0)) return false
  return true
}
