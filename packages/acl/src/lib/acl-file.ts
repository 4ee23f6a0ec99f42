/**
 * Dovecot's `dovecot-acl`: the list of one mailbox as a text file, read and written as Dovecot does (line.ts has the lines).
 *
 * FORMAT   lines ended by LF (the last one need not be), a CR before it ignored; empty ones and those that begin with `#` say nothing.
 *          Written: sorted, letters in the order of the names of rights, quotes only where there is a space.
 *
 * Any bytes are a file. What is no line is reported, gives nothing and denies what it may have denied; the rest is used. Dovecot
 * refuses the whole mailbox instead. What is no UTF-8 is broken, as is a NUL, at which Dovecot ends the line.
 */
import { type Fs, FsError } from '@mailstead/fs'
import { brokenLine, brokenText, formatEntry, parseLine } from './line.ts'
import {
  ACL_ENTRIES_MAX,
  type AclChange,
  type AclEntry,
  type AclList,
  aclList,
  type BrokenLine,
  changeAcl,
  EMPTY_ACL,
} from './list.ts'

/** Longest file that is read, in bytes. What comes after that is one broken line. */
export const ACL_FILE_MAX: number = 16 * 1024 * 1024
/** Most broken lines that are kept one by one. All others are one more, which denies everything to everybody but the owner. */
export const BROKEN_LINES_MAX = 100
/** Most findings that are reported of one file. */
export const FINDINGS_MAX = 1000
const changedMeanwhile: ReadonlySet<string> = new Set(['FS_CONFLICT', 'FS_EXISTS'])
/** Tries to change a file that others change at the same time. */
const CHANGE_TRIES = 50

/** What somebody should look at in a file. */
export interface AclFinding {
  /** From 1; 0 if it is about the file. */
  readonly line: number
  /** The line, or its beginning. */
  readonly text: string
  /** Why, for people. */
  readonly problem: string
  /** `broken`: it gives nothing, and denies. `odd`: it says what it says, which is probably not what was meant. */
  readonly kind: 'broken' | 'odd'
}

export interface AclFileContent {
  readonly list: AclList
  /** In the order of the lines; of more than FINDINGS_MAX the first. */
  readonly findings: readonly AclFinding[]
}

/** Reads a file's bytes. Never fails. `name` is what entries say they come from. (default `dovecot-acl`) */
export function parseAclFile(bytes: Uint8Array, name = 'dovecot-acl'): AclFileContent {
  const entries: AclEntry[] = []
  const report = new Findings(name)
  const broken: BrokenLine[] = []
  for (const { line, text } of linesOf(bytes, report)) {
    const read = parseLine(text)
    const origin = `${name}:${line}`
    if ('broken' in read) {
      const kept = brokenText(text)
      report.add(line, kept, read.broken.problem, 'broken')
      keepBroken(broken, { text: kept, ...read.broken, origin })
    } else if (entries.length === ACL_ENTRIES_MAX) {
      report.add(line, text, `it has more than ${ACL_ENTRIES_MAX} entries`, 'broken')
      keepBroken(broken, restOf(origin))
      break
    } else {
      const odd = oddity(read.entry)
      if (odd !== undefined) report.add(line, text, odd, 'odd')
      entries.push({ ...read.entry, origin })
    }
  }
  if (report.cut) keepBroken(broken, restOf(name))
  return { list: aclList(entries, broken), findings: report.list }
}

/** The bytes of a file: entries, then broken lines as they came. */
export function formatAclFile(list: AclList): Uint8Array {
  const lines = [...list.entries.flatMap(formatEntry), ...list.broken.map(({ text }) => text)]
  return Buffer.from(lines.map((line) => `${line}\n`).join(''))
}

/**
 * The file at `path`; undefined if there is none: then the defaults apply. One that may not be read takes away everything from
 * everybody, the owner included, as in Dovecot. Any other failure of the file system is thrown.
 */
export async function readAclFile(fs: Fs, path: string): Promise<AclFileContent | undefined> {
  try {
    return parseAclFile(await readLimited(fs, path), path.slice(path.lastIndexOf('/') + 1))
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    if (!(error instanceof FsError && error.code === 'FS_DENIED')) throw error
    const nobody = { name: '', rights: 0, origin: path }
    return {
      list: aclList([
        { ...nobody, kind: 'anyone' },
        { ...nobody, kind: 'owner' },
      ]),
      findings: [{ line: 0, text: '', problem: 'the file may not be read', kind: 'broken' }],
    }
  }
}

/** Replaces the file, durable when resolved. */
export async function writeAclFile(fs: Fs, path: string, list: AclList): Promise<void> {
  await fs.writeFile(path, formatAclFile(list))
}

/**
 * Reads, changes and writes the file; resolves to the new list. Where the driver has conditional writes, changes of
 * others in between are kept (not those of a Dovecot at work). FS_CONFLICT if others change it all the time.
 */
export async function changeAclFile(fs: Fs, path: string, change: AclChange): Promise<AclList> {
  for (let tries = 1; ; tries++) {
    const before = await fs.stat(path)
    const now = before === undefined ? EMPTY_ACL : parseAclFile(await readLimited(fs, path)).list
    const list = changeAcl(now, change)
    const condition = !fs.supports.conditional
      ? {}
      : before === undefined
        ? { ifAbsent: true }
        : { ifMatch: before.tag }
    try {
      await fs.writeFile(path, formatAclFile(list), condition)
      return list
    } catch (error) {
      const others = error instanceof FsError && changedMeanwhile.has(error.code)
      if (!others || tries === CHANGE_TRIES) throw error
    }
  }
}

/** At most one byte more than is used: then it is known that there is more. */
export async function readLimited(fs: Fs, path: string): Promise<Uint8Array> {
  return fs.readFile(path, { end: ACL_FILE_MAX + 1 })
}

export class Findings {
  readonly list: AclFinding[] = []
  /** The file is longer than is read. */
  cut = false
  readonly name: string

  constructor(name: string) {
    this.name = name
  }

  add(line: number, text: string, problem: string, kind: AclFinding['kind']): void {
    if (this.list.length === FINDINGS_MAX)
      this.list[FINDINGS_MAX - 1] = {
        line: 0,
        text: '',
        problem: `more than ${FINDINGS_MAX - 1} lines`,
        kind: 'broken',
      }
    else this.list.push({ line, text: brokenText(text), problem, kind })
  }
}

const text = new TextDecoder('utf-8', { ignoreBOM: true })

/** The lines that say something, without their ends, with their numbers from 1. */
export function* linesOf(
  bytes: Uint8Array,
  findings: Findings,
): Generator<{ readonly line: number; readonly text: string }> {
  let end = bytes.length
  if (end > ACL_FILE_MAX) {
    end = bytes.subarray(0, ACL_FILE_MAX).lastIndexOf(0x0a) + 1
    findings.cut = true
    findings.add(0, '', `it is longer than ${ACL_FILE_MAX} bytes, and only the beginning is read`, 'broken')
  }
  let line = 0
  for (let at = 0; at < end; ) {
    const lf = bytes.indexOf(0x0a, at)
    const stop = lf < 0 || lf > end ? end : lf
    const last = stop > at && bytes[stop - 1] === 0x0d ? stop - 1 : stop
    line++
    if (last > at && bytes[at] !== 0x23) yield { line, text: text.decode(bytes.subarray(at, last)) }
    at = stop + 1
  }
}

/** What stands for everything that was not read: it denies everything to everybody but the owner. */
export function restOf(origin: string): BrokenLine {
  return { text: '\ufffd', ...brokenLine('\ufffd'), origin }
}

/** Keeps a broken line, or what stands for it and all others after it. */
export function keepBroken(broken: BrokenLine[], line: BrokenLine): void {
  if (broken.length < BROKEN_LINES_MAX) broken.push(line)
  else if (broken.length === BROKEN_LINES_MAX) broken.push(restOf(line.origin ?? ''))
}

/** What is probably a mistake in an entry, though it has a meaning. */
export function oddity({ kind, name, otherRights, otherDenied }: AclEntry): string | undefined {
  if (/^\s|\s$|\t/.test(name)) return `the blank is part of the name ${JSON.stringify(name)}`
  if (name === '' && kind !== 'anyone' && kind !== 'authenticated' && kind !== 'owner') return 'it names nobody'
  const others = otherRights ?? otherDenied
  return others === undefined ? undefined : `no such right: ${others.join(' ')}`
}
