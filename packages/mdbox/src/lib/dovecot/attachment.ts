/**
 * Parts of messages that Dovecot keeps in files of their own, named by the hash of their content.
 *
 * The file is `<path>` for mdbox, `<path>-<mailbox GUID>-<UID>` for sdbox. Where that is not there (an sdbox mailbox that lost its
 * index has another GUID now) or is damaged, another file of the same hash serves: once links to one file, after a restore perhaps
 * not any more. A file is read twice: nothing of it is given out before it was compared with its name.
 */
import type { BoxError } from '@mailstead/box'
import { digestOf, isProof, verifyDigest } from './attachment-hash.ts'
import type { ExternalPart } from './dbox-record.ts'
import type { Faults } from './fault.ts'
import { below, join, type NamedRoot, namesIn, type OpenedFile, openIfThere, readAt } from './root.ts'

/** Whole groups of three bytes, so that each piece is encoded by itself. */
const PIECE_BYTES: number = 48 * 1024

export interface AttachmentPlace {
  /** Undefined if the store has none. */
  readonly attachments: NamedRoot | undefined
  /** `-<mailbox GUID>-<UID>` in sdbox, '' in mdbox. */
  readonly suffix: string
  readonly faults: Faults
  /** Of the message, for faults. */
  readonly owner: { readonly mailbox: string; readonly uid: number }
}

type Fail = (what: string, cause?: unknown) => BoxError

/** The bytes of a part as they are in the message, exactly `part.size` of them, or what `fail` makes of it. */
export async function* externalPart(
  place: AttachmentPlace,
  part: ExternalPart,
  fail: Fail,
): AsyncGenerator<Uint8Array, void, undefined> {
  const found = await findFile(place, part, fail)
  try {
    let column = 0
    let left = found.size
    for await (const piece of piecesOf(found)) {
      left -= piece.length
      if (part.lineLength === 0) yield piece
      else {
        const text = Buffer.from(piece.buffer, piece.byteOffset, piece.length).toString('base64')
        yield inLines(text, part, column)
        column = (column + text.length) % part.lineLength
        // A line that is full is ended only once there is another one.
        if (column === 0) column = part.lineLength
      }
    }
    if (left > 0) throw fail(`the attachment ${found.shown} ends before its size`)
  } finally {
    await found.file[Symbol.asyncDispose]()
  }
}

/** Up to its size, or to where it ends. */
export async function* piecesOf({ file, size }: OpenedFile): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < size; ) {
    const piece = await readAt(file, at, Math.min(PIECE_BYTES, size - at))
    if (piece.length === 0) return
    at += piece.length
    yield piece
  }
}

/** Base64 text cut into lines, the first of which has `column` characters already. */
function inLines(text: string, { lineLength, crlf }: ExternalPart, column: number): Uint8Array {
  const lines: string[] = []
  let at = Math.min(lineLength - column, text.length)
  lines.push(text.slice(0, at))
  while (at < text.length) {
    lines.push(text.slice(at, at + lineLength))
    at += lineLength
  }
  return Buffer.from(lines.join(crlf ? '\r\n' : '\n'), 'latin1')
}

/** Bytes in the message of a file of `size` bytes. */
export function sizeInMessage(size: number, { lineLength, crlf }: ExternalPart): number {
  if (lineLength === 0 || size === 0) return size
  const characters = Math.ceil(size / 3) * 4
  return characters + (Math.ceil(characters / lineLength) - 1) * (crlf ? 2 : 1)
}

async function findFile(place: AttachmentPlace, part: ExternalPart, fail: Fail): Promise<OpenedFile> {
  const { attachments, suffix, faults, owner } = place
  if (attachments === undefined) {
    faults.add('attachment-lost', 'no root of attachments is known', { file: part.path + suffix, ...owner })
    throw fail(`no root of attachments is known: ${part.path} is missing`)
  }
  const digest = digestOf(part.path)
  const own = join(attachments.shown, part.path + suffix)
  let wrong = ''
  const tried = new Set<string>()
  for await (const [path, isOwn] of candidates(place, attachments, part)) {
    if (tried.has(path)) continue
    tried.add(path)
    const found = await openIfThere(attachments, path, faults)
    if (found === undefined) continue
    try {
      const why = await whatIsWrong(found, part, digest, faults, attachments)
      if (why === undefined) {
        if (!isOwn)
          faults.add('attachment-lost', `${found.shown}, which has the same hash, is read instead`, { file: own })
        return found
      }
      faults.add('attachment-damaged', `the attachment ${why}`, { file: found.shown })
      if (wrong === '') wrong = `the attachment ${found.shown} ${why}`
    } catch (error) {
      await found.file[Symbol.asyncDispose]()
      throw error
    }
    await found.file[Symbol.asyncDispose]()
  }
  if (wrong !== '') throw fail(wrong)
  faults.add('attachment-lost', 'the attachment is missing, and nothing else has the same hash', {
    file: own,
    ...owner,
  })
  throw fail(`the attachment ${join(attachments.shown, part.path)} is missing`)
}

/** Where the bytes may be, best first; and whether it is the message's own. */
async function* candidates(
  { suffix, faults }: AttachmentPlace,
  attachments: NamedRoot,
  { path }: ExternalPart,
): AsyncGenerator<readonly [path: string, isOwn: boolean], void, undefined> {
  yield [path + suffix, true]
  yield [path, true]
  const digest = digestOf(path)
  // Only what a hash proves may stand in for another file.
  if (!isProof(digest)) return
  const slash = path.lastIndexOf('/')
  const directory = slash < 0 ? '' : path.slice(0, slash)
  yield [join(directory, `hashes/${digest}`), false]
  for (const other of await namesIn(below(attachments, directory), 'file', faults))
    if (other.startsWith(`${digest}-`)) yield [join(directory, other), false]
}

async function whatIsWrong(
  found: OpenedFile,
  part: ExternalPart,
  digest: string,
  faults: Faults,
  { shown }: NamedRoot,
): Promise<string | undefined> {
  if (sizeInMessage(found.size, part) !== part.size) return 'has another size than its message says'
  const verdict = await verifyDigest(digest, () => piecesOf(found))
  if (verdict === 'damaged') return 'is not what its name says'
  if (verdict === 'unverified')
    faults.add(
      'attachment-unverified',
      'names of attachments are no hashes that are known: only their sizes were compared',
      {
        file: shown,
      },
    )
  return undefined
}
