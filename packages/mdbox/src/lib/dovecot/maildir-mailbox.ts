/**
 * The messages of one Maildir.
 *
 * What has no UID yet (new mail that Dovecot has not looked at) gets the next ones in the order of delivery, as Dovecot will give
 * them. What has a UID and no file was expunged. GUIDs are what Dovecot makes of them: 32 hexadecimal digits as they are, any
 * other name by the end of its SHA-1.
 */
import { createHash } from 'node:crypto'
import { BoxError } from '@mailstead/box'
import type { FsEntry, FsStat } from '@mailstead/fs'
import { FieldCache } from './cache.ts'
import type { DovecotMailbox, DovecotMessage } from './contract.ts'
import { numberOf, PRIVATE_INDEX } from './dbox-mailbox.ts'
import { decompressed } from './decompress.ts'
import { Faults } from './fault.ts'
import { flagsOf, KEYWORDS_BYTES_MAX, KEYWORDS_FILE, readKeywords } from './maildir-flags.ts'
import { fieldOf, hexGuid, type MaildirUidlist, withoutFlags } from './maildir-uidlist.ts'
import { DOVECOT_INTERNAL, SYSTEM_FLAGS } from './flags.ts'
import type { ReadIndex } from './read-index.ts'
import { below, hasAny, isAbsence, join, messageOf, type NamedRoot, readAt, readIfThere } from './root.ts'

/** In such a Maildir \Seen is each user's own. */
const SHARED_FILE = 'dovecot-shared'
/** Messages of one page. */
const PAGE = 256
/** Bytes that are read at once. */
const CHUNK = 64 * 1024
/** Index records whose flags are newer than the name of the file. */
const DIRTY = DOVECOT_INTERNAL & ~0x40
/** GUIDs in an index's column are 16 bytes, and the SHA-1 has 20. */
const GUID_BYTES = 16

export interface MaildirParts {
  readonly name: string
  readonly directory: NamedRoot
  readonly indexRoot: NamedRoot
  readonly faults: Faults
  readonly guid: Uint8Array | undefined
  readonly uidValidity: number | undefined
  readonly uidNext: number | undefined
  readonly highestModSeq: number | undefined
  readonly readList: () => Promise<MaildirUidlist | undefined>
  readonly readIndex: () => Promise<ReadIndex | undefined>
}

/** What is known of a message before its file is looked at. */
interface Listed {
  readonly uid: number
  /** Without flags. */
  readonly base: string
  readonly fields: string
  /** Dovecot has given this UID. */
  readonly known: boolean
}

interface Sources {
  readonly files: Map<string, string>
  readonly keywords: readonly (string | undefined)[]
  readonly index: ReadIndex | undefined
  readonly cache: FieldCache | undefined
}

export class MaildirMailbox implements DovecotMailbox {
  readonly name: string
  readonly selectable = true
  readonly guid: Uint8Array | undefined
  readonly uidValidity: number | undefined
  readonly uidNext: number | undefined
  readonly highestModSeq: number | undefined
  readonly directory: NamedRoot
  readonly #parts: MaildirParts

  constructor(parts: MaildirParts) {
    this.name = parts.name
    this.guid = parts.guid
    this.uidValidity = parts.uidValidity
    this.uidNext = parts.uidNext
    this.highestModSeq = parts.highestModSeq
    this.directory = parts.directory
    this.#parts = parts
  }

  async hasPrivateFlags(): Promise<boolean> {
    const { directory, indexRoot } = this.#parts
    return (await hasAny(directory, [SHARED_FILE])) || hasAny(indexRoot, PRIVATE_INDEX)
  }

  async *messages(): AsyncGenerator<readonly DovecotMessage[], void, undefined> {
    const { directory, faults } = this.#parts
    const list = await this.#parts.readList()
    // UIDs that the list has lost are not those of the index.
    const index = list === undefined ? undefined : await this.#parts.readIndex()
    const names = await readIfThere(directory, KEYWORDS_FILE, KEYWORDS_BYTES_MAX, faults)
    // What is cached can be found out otherwise, or is lost with any change of storage: no fault.
    const cache = index && (await FieldCache.open(this.#parts.indexRoot, index.index, new Faults(), this.name))
    const sources: Sources = {
      files: await this.#list(list !== undefined && list.uids.length > 0),
      keywords: names === undefined ? [] : readKeywords(names),
      index,
      cache,
    }
    try {
      let page: DovecotMessage[] = []
      for (const listed of inOrder(list, sources.files)) {
        const message = await this.#message(listed, sources)
        if (message === undefined) continue
        page.push(message)
        if (page.length < PAGE) continue
        yield page
        page = []
      }
      if (page.length > 0) yield page
    } finally {
      await cache?.[Symbol.asyncDispose]()
    }
  }

  /** Where the file of each message is, by its name without flags. */
  async #list(expected: boolean): Promise<Map<string, string>> {
    const { directory, faults, name } = this.#parts
    const { fs } = directory
    const files = new Map<string, string>()
    const missing: string[] = []
    // What lies in both was being moved to `cur`.
    for (const part of ['new', 'cur']) {
      const at = below(directory, part)
      try {
        if ((await fs.stat(at.path)) === undefined) missing.push(part)
        for await (const page of fs.list(at.path)) for (const entry of page) this.#take(files, part, entry)
      } catch (error) {
        faults.add('unreadable', messageOf(error), { file: at.shown, mailbox: name })
      }
    }
    if (missing.length > 0 && expected)
      faults.add('mail-lost', `there is no ${missing.join(' and no ')}, and messages are listed`, {
        file: directory.shown,
        mailbox: name,
      })
    return files
  }

  #take(files: Map<string, string>, part: string, { name: file, kind }: FsEntry): void {
    if (kind !== 'file' || file.startsWith('.')) return
    const { directory, faults, name } = this.#parts
    const base = withoutFlags(file)
    const before = files.get(base)
    if (before?.startsWith(`${part}/`) === true) {
      const [kept, left] = before < `${part}/${file}` ? [before, `${part}/${file}`] : [`${part}/${file}`, before]
      faults.add('twice', `the message is also ${kept}, which is read`, {
        file: join(directory.shown, left),
        mailbox: name,
      })
      files.set(base, kept)
    } else files.set(base, `${part}/${file}`)
  }

  async #message(listed: Listed, sources: Sources): Promise<DovecotMessage | undefined> {
    const { faults, directory, name } = this.#parts
    const { uid, base, fields } = listed
    let stat: FsStat | undefined
    try {
      stat = await this.#stat(base, sources.files)
    } catch (error) {
      faults.add('unreadable', messageOf(error), { file: this.#shown(base, sources.files), mailbox: name, uid })
    }
    if (stat === undefined && sources.files.get(base) === undefined) return undefined
    const file = sources.files.get(base)!
    const { flags, keywords, modSeq } = stateOf(listed, file, sources)
    const guidText = fieldOf(fields, 'G') ?? base
    const guid = guidOf(guidText)
    const order = fieldOf(fields, 'O')
    const expected = sizeOf(fieldOf(fields, 'S')) ?? sizeOf(/,S=(\d+)/.exec(base)?.[1])
    const delivered = deliveredAt(base)
    return {
      uid,
      flags,
      keywords,
      modSeq,
      guid,
      // Dovecot's dates are whole seconds.
      receivedMs: stat === undefined ? undefined : Math.floor(stat.modifiedMs / 1000) * 1000,
      // Dovecot takes it from the inode, which no copy of a Maildir keeps; its cache may, or else the name says when it was delivered.
      savedMs:
        (await savedAt(listed, sources)) ?? (delivered === undefined ? undefined : Math.floor(delivered / 1e6) * 1000),
      pop3Uidl: fieldOf(fields, 'P'),
      pop3Order: order !== undefined && /^\d{1,10}$/.test(order) ? Number(order) : undefined,
      // Copies are further links to one file, or have the first one's GUID in the list.
      shared: stat === undefined ? undefined : `${Buffer.from(guid).toString('hex')} ${stat.size}`,
      open: () => this.#open(uid, base, expected, sources.files, directory),
    }
  }

  #shown(base: string, files: ReadonlyMap<string, string>): string {
    return join(this.#parts.directory.shown, files.get(base) ?? base)
  }

  /** Dovecot renames a file when its flags change: what is not where it was is looked for again. */
  async #stat(base: string, files: Map<string, string>): Promise<FsStat | undefined> {
    const { fs, path } = this.#parts.directory
    const file = files.get(base)
    if (file === undefined) return undefined
    const stat = await fs.stat(join(path, file))
    if (stat !== undefined) return stat
    await this.#again(files)
    const other = files.get(base)
    return other === undefined || other === file ? undefined : fs.stat(join(path, other))
  }

  async #again(files: Map<string, string>): Promise<void> {
    const newer = await this.#list(false)
    files.clear()
    for (const [base, file] of newer) files.set(base, file)
  }

  async *#open(
    uid: number,
    base: string,
    expected: number | undefined,
    files: Map<string, string>,
    directory: NamedRoot,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    if ((await this.#stat(base, files)) === undefined)
      throw new BoxError('BOX_DAMAGED', `${this.#shown(base, files)} is not there any more`, {
        file: this.#shown(base, files),
      })
    const file = files.get(base)!
    const shown = join(directory.shown, file)
    let size = 0
    try {
      for await (const chunk of decompressed(chunksOf(directory, file))) {
        size += chunk.length
        yield chunk
      }
    } catch (error) {
      if (!(error instanceof BoxError)) throw error
      throw new BoxError(error.code, `${shown}: ${error.message}`, { file: shown, cause: error })
    }
    if (expected === undefined || size === expected) return
    if (size < expected)
      throw new BoxError('BOX_DAMAGED', `${shown} has ${size} bytes, and ${expected} are recorded`, {
        file: shown,
        offset: size,
      })
    const { faults, name } = this.#parts
    faults.add('size', `the message has ${size} bytes, and ${expected} are recorded`, {
      file: shown,
      mailbox: name,
      uid,
    })
  }
}

async function* chunksOf(directory: NamedRoot, name: string): AsyncGenerator<Uint8Array, void, undefined> {
  await using file = await directory.fs.open(join(directory.path, name), 'read').catch((error: unknown) => {
    if (!isAbsence(error)) throw error
    throw new BoxError('BOX_DAMAGED', 'the file is not there any more', { cause: error })
  })
  for (let position = 0; ; ) {
    const chunk = await readAt(file, position, CHUNK)
    if (chunk.length > 0) yield chunk
    if (chunk.length < CHUNK) return
    position += chunk.length
  }
}

/** Listed messages by UID, then those that are not listed in the order of their delivery. */
function* inOrder(
  list: MaildirUidlist | undefined,
  files: ReadonlyMap<string, string>,
): Generator<Listed, void, undefined> {
  const listed = new Map<string, number>()
  if (list !== undefined)
    // A file that was listed again got another UID: the later one counts.
    for (let i = 0; i < list.names.length; i++) listed.set(list.names[i]!, i)
  const fresh: { readonly base: string; readonly at: number }[] = []
  for (const base of files.keys()) if (!listed.has(base)) fresh.push({ base, at: deliveredAt(base) ?? 0 })
  if (list !== undefined)
    for (let i = 0; i < list.names.length; i++) {
      const base = list.names[i]!
      if (listed.get(base) === i) yield { uid: list.uids[i]!, base, fields: list.fields[i]!, known: true }
    }
  fresh.sort((a, b) => (a.at === b.at ? (a.base < b.base ? -1 : 1) : a.at - b.at))
  let uid = list?.uidNext ?? 1
  for (const { base } of fresh) yield { uid: uid++, base, fields: '', known: false }
}

/** The file's name has the flags, unless Dovecot has not got round to writing them; its index has keywords beyond z, and modseqs. */
function stateOf(
  { uid, known }: Listed,
  file: string,
  { keywords: names, index }: Sources,
): { readonly flags: number; readonly keywords: readonly string[]; readonly modSeq: number | undefined } {
  const own = flagsOf(file)
  const keywords: string[] = []
  for (const k of own.keywords) {
    const name = names[k]
    if (name !== undefined) keywords.push(name)
  }
  const row = known && index !== undefined ? index.index.rowOf(uid) : -1
  if (row < 0) return { flags: own.flags, keywords, modSeq: undefined }
  const { index: records } = index!
  // Dovecot serves the highest one for messages it has kept none of.
  const modSeq = records.modSeqs[row]! > 0 ? records.modSeqs[row]! : index!.highestModSeq
  const indexed = records.keywordsOf(row)
  const bits = records.flags[row]!
  if ((bits & DIRTY) !== 0) return { flags: bits & SYSTEM_FLAGS, keywords: indexed, modSeq }
  for (const name of indexed) {
    const k = names.findIndex((other) => other?.toLowerCase() === name.toLowerCase())
    // Only 26 have letters.
    if (k < 0 || k >= 26) keywords.push(name)
  }
  return { flags: own.flags, keywords, modSeq }
}

async function savedAt({ uid, known }: Listed, { index, cache }: Sources): Promise<number | undefined> {
  const row = known && index !== undefined ? index.index.rowOf(uid) : -1
  const offset = row < 0 ? 0 : numberOf(index!.index, 'cache', row, 0)
  if (offset === 0 || cache === undefined) return undefined
  const fields = await cache.fields(offset).catch(() => undefined)
  return fields?.savedMs
}

function guidOf(text: string): Uint8Array {
  return hexGuid(text) ?? new Uint8Array(createHash('sha1').update(text).digest().subarray(-GUID_BYTES))
}

/** Microseconds since the epoch, from a name such as `1795334790.M551768P24613.host`. */
function deliveredAt(base: string): number | undefined {
  const match = /^(\d{1,10})\.(?:.*?M(\d{1,6}))?/.exec(base)
  return match === null ? undefined : Number(match[1]) * 1e6 + Number(match[2] ?? 0)
}

function sizeOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined
}
