/**
 * The corpus of public mail, and mail of our own for where it is absent.
 *
 * The corpus lies outside the repository, in ../shared/corpus; the manifest there names every message by archive and member.
 * Every message is handed out in canonical form: each LF that no CR precedes becomes CRLF; bare CR and NUL are kept.
 */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { deep, type Lack, say } from './depth.ts'
import { madeMail } from './made-mail.ts'
import { readTar } from './tar.ts'

export const REPOSITORY: string = join(import.meta.dirname, '..', '..')
export const CORPUS: string = join(REPOSITORY, '..', 'shared', 'corpus')

export interface CorpusMessage {
  readonly archive: string
  readonly member: string
  readonly category: string
  readonly flags: readonly string[]
  /** Canonical form. */
  readonly bytes: Buffer
  /** As it is in the archive. */
  readonly found: Buffer
  /** Hex SHA-256 of the canonical form. */
  readonly sha256: string
  /** Hex SHA-256 of the bytes as found. */
  readonly foundSha256: string
}

interface ManifestEntry {
  readonly archive: string
  readonly member: string | number
  readonly sha256: string
  readonly size: number
  readonly category: string
  readonly flags: readonly string[]
  readonly mbox_offset?: number
}

export function corpusLack(): Lack | undefined {
  return existsSync(join(CORPUS, 'manifest.json')) ? undefined : { reason: 'no corpus in ../shared/corpus' }
}

/** Whether the corpus is there. Says so if it is not; a deep run throws then. */
export function corpusIsThere(): boolean {
  const lack = corpusLack()
  if (lack === undefined) return true
  if (deep()) throw new Error(`nothing may be skipped in a deep run: ${lack.reason}`)
  say(`skipped: ${lack.reason}`)
  return false
}

/** Each message with what another server answers about it. */
export function* corpusWithAnswers(): Generator<{ readonly entry: CorpusMessage; readonly answer: OracleLine }> {
  const answers = oracle()
  for (const entry of corpus()) {
    const answer = answers.get(entry.sha256)
    if (answer === undefined) throw new Error(`no answer about ${entry.archive} ${entry.member}`)
    yield { entry, answer }
  }
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Every LF without CR before it becomes CRLF. Returns the same buffer if nothing changes. */
export function canonical(bytes: Buffer): Buffer {
  let extra = 0
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) {
    if (at === 0 || bytes[at - 1] !== 13) extra++
  }
  if (extra === 0) return bytes
  const out = Buffer.allocUnsafe(bytes.length + extra)
  let to = 0
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]!
    if (byte === 10 && (at === 0 || bytes[at - 1] !== 13)) out[to++] = 13
    out[to++] = byte
  }
  return out
}

/** Undoes what a client did that keeps CRLF as LF: every LF becomes CRLF again, whatever precedes it. */
export function lineEndsRestored(bytes: Buffer): Buffer {
  let lines = 0
  for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) lines++
  const out = Buffer.allocUnsafe(bytes.length + lines)
  let to = 0
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]!
    if (byte === 10) out[to++] = 13
    out[to++] = byte
  }
  return out
}

/**
 * Whether LMTP's DATA can carry it exactly: no NUL, no bare CR, and a final CRLF (DATA always ends with one) unless it is
 * empty.
 */
export function lmtpCanCarry(bytes: Buffer): boolean {
  if (bytes.length === 0) return true
  if (bytes.length < 2 || bytes[bytes.length - 1] !== 10 || bytes[bytes.length - 2] !== 13) return false
  return !hasNul(bytes) && !hasBareCr(bytes)
}

export function hasNul(bytes: Buffer): boolean {
  return bytes.includes(0)
}

export function hasBareCr(bytes: Buffer): boolean {
  for (let at = bytes.indexOf(13); at >= 0; at = bytes.indexOf(13, at + 1)) if (bytes[at + 1] !== 10) return true
  return false
}

/** Whether an empty line ends the header. */
export function hasHeaderEnd(bytes: Buffer): boolean {
  return bytes.includes('\r\n\r\n') || bytes.subarray(0, 2).equals(Buffer.from('\r\n'))
}

/** A file of the corpus, unpacked. */
function unpacked(name: string): Buffer {
  return gunzipSync(readFileSync(join(CORPUS, name)))
}

/** The files of an archive of the corpus, by name, as they are there. */
export function archiveMembers(name: string): Map<string, Buffer> {
  return new Map(readTar(unpacked(name)).map((file) => [file.name, file.bytes]))
}

let loaded: readonly CorpusMessage[] | undefined

/** All messages of the corpus, each checked against the manifest's SHA-256. */
export function corpus(): readonly CorpusMessage[] {
  if (loaded !== undefined) return loaded
  const manifest = JSON.parse(readFileSync(join(CORPUS, 'manifest.json'), 'utf8')) as { messages: ManifestEntry[] }
  const archives = new Map<string, Map<string, Buffer> | Buffer>()
  loaded = manifest.messages.map((entry) => {
    let archive = archives.get(entry.archive)
    if (archive === undefined) {
      archive = entry.archive.endsWith('.tar.gz') ? archiveMembers(entry.archive) : unpacked(entry.archive)
      archives.set(entry.archive, archive)
    }
    const offset = entry.mbox_offset ?? 0
    const found = Buffer.isBuffer(archive)
      ? archive.subarray(offset, offset + entry.size)
      : archive.get(String(entry.member))
    if (found === undefined || sha256(found) !== entry.sha256) {
      throw new Error(`${entry.archive} ${entry.member} is not what the manifest says`)
    }
    const bytes = canonical(found)
    return {
      archive: entry.archive,
      member: String(entry.member),
      category: entry.category,
      flags: entry.flags,
      bytes,
      found,
      sha256: sha256(bytes),
      foundSha256: entry.sha256,
    }
  })
  return loaded
}

/** The corpus; where there is none, mail made by this project. A deep run throws then. */
export function anyMail(): readonly CorpusMessage[] {
  const lack = corpusLack()
  if (lack === undefined) return corpus()
  if (deep()) throw new Error(`nothing may be replaced in a deep run: ${lack.reason}`)
  return madeMail()
}

export interface OracleLine {
  readonly canonical_sha256: string
  readonly rfc822_size: number
  readonly envelope: string
  readonly bodystructure: string
  readonly body: string
}

/** What another server answered for each message, by the SHA-256 of its canonical form. */
export function oracle(): ReadonlyMap<string, OracleLine> {
  const lines = unpacked('oracle/dev.jsonl.gz').toString('utf8').trimEnd().split('\n')
  return new Map(
    lines.map((line) => {
      const parsed = JSON.parse(line) as OracleLine
      return [parsed.canonical_sha256, parsed]
    }),
  )
}

export interface ListOracle {
  readonly append_order: readonly { uid: number; member: string; internaldate_unix: number }[]
  readonly results: readonly { command: string; status: string; response: readonly string[] }[]
}

export function listOracle(): ListOracle {
  return JSON.parse(unpacked('oracle/dev-lists-search-sort-thread.json.gz').toString('utf8')) as ListOracle
}
