/**
 * Parts of messages that Dovecot keeps in files of their own, named by the hash of their content.
 *
 * The file is `<path>` for mdbox, `<path>-<mailbox GUID>-<UID>` for sdbox. Where that is not there (an sdbox mailbox that lost its
 * index has another GUID now), another file of the same hash serves, since the hash says whether it is the right one.
 */
import { createHash, type Hash } from 'node:crypto'
import type { BoxError } from '@mailstead/box'
import type { ExternalPart } from './dbox-record.ts'
import type { Faults } from './fault.ts'
import { below, join, type NamedRoot, namesIn, type OpenedFile, openIfThere, readAt } from './root.ts'

/** Whole groups of three bytes, so that each piece is encoded by itself. */
const PIECE_BYTES: number = 48 * 1024
/** Hashes by the number of their digits. Of shortened ones nothing can be checked but the size. */
const ALGORITHMS: ReadonlyMap<number, string> = new Map([
  [32, 'md5'],
  [40, 'sha1'],
  [64, 'sha256'],
  [128, 'sha512'],
])

export interface AttachmentPlace {
  /** Undefined if the store has none. */
  readonly attachments: NamedRoot | undefined
  /** `-<mailbox GUID>-<UID>` in sdbox, '' in mdbox. */
  readonly suffix: string
  readonly faults: Faults
}

type Fail = (what: string, cause?: unknown) => BoxError

/** The bytes of a part as they are in the message, exactly `part.size` of them, or what `fail` makes of it. */
export async function* externalPart(
  place: AttachmentPlace,
  part: ExternalPart,
  fail: Fail,
): AsyncGenerator<Uint8Array, void, undefined> {
  const { file, size, shown } = await findFile(place, part, fail)
  try {
    const digest = digestOf(part.path)
    const hash = hashFor(digest)
    let column = 0
    for (let at = 0; at < size; ) {
      const wanted = Math.min(PIECE_BYTES, size - at)
      const piece = await readAt(file, at, wanted)
      if (piece.length !== wanted) throw fail(`the attachment ${shown} ends before its size`)
      at += wanted
      hash?.update(piece)
      if (part.lineLength === 0) yield piece
      else {
        const text = Buffer.from(piece.buffer, piece.byteOffset, piece.length).toString('base64')
        yield inLines(text, part, column)
        column = (column + text.length) % part.lineLength
        // A line that is full is ended only once there is another one.
        if (column === 0) column = part.lineLength
      }
    }
    if (hash !== undefined && hash.digest('hex') !== digest)
      throw fail(`the attachment ${shown} is not what its name says`)
  } finally {
    await file[Symbol.asyncDispose]()
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

async function findFile(
  { attachments, suffix, faults }: AttachmentPlace,
  part: ExternalPart,
  fail: Fail,
): Promise<OpenedFile> {
  if (attachments === undefined) throw fail(`no root of attachments is known: ${part.path} is missing`)
  const slash = part.path.lastIndexOf('/')
  const directory = slash < 0 ? '' : part.path.slice(0, slash)
  const name = part.path.slice(slash + 1)
  const digest = digestOf(part.path)
  let wrong = ''
  const tried = new Set<string>()
  const open = async (path: string): Promise<OpenedFile | undefined> => {
    if (tried.has(path)) return undefined
    tried.add(path)
    const found = await openIfThere(attachments, path, faults)
    if (found === undefined || sizeInMessage(found.size, part) === part.size) return found
    wrong = `: ${found.shown} has another size`
    await found.file[Symbol.asyncDispose]()
    return undefined
  }
  const exact = (await open(part.path + suffix)) ?? (await open(part.path))
  if (exact !== undefined) return exact
  const instead = (found: OpenedFile): OpenedFile => {
    faults.add('attachment-lost', `${found.shown}, which has the same hash, is read instead`, {
      file: join(attachments.shown, part.path + suffix),
    })
    return found
  }
  // Only what a hash proves may stand in for another file.
  if (hashFor(digest) !== undefined) {
    const hashed = await open(join(directory, `hashes/${digest}`))
    if (hashed !== undefined) return instead(hashed)
    for (const other of await namesIn(below(attachments, directory), 'file', faults)) {
      if (!other.startsWith(`${digest}-`)) continue
      const found = await open(join(directory, other))
      if (found !== undefined) return instead(found)
    }
  }
  throw fail(`the attachment ${join(attachments.shown, join(directory, name))} is missing${wrong}`)
}

function digestOf(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1)
  const dash = name.indexOf('-')
  return dash < 0 ? name : name.slice(0, dash)
}

/** Undefined where nothing can be checked. */
function hashFor(digest: string): Hash | undefined {
  const algorithm = /^[0-9a-f]+$/.test(digest) ? ALGORITHMS.get(digest.length) : undefined
  return algorithm === undefined ? undefined : createHash(algorithm)
}
