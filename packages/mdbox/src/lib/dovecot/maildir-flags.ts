/** Flags and keywords of a Maildir message: the letters behind `:2,` in the name of its file. */
import { FLAG_ANSWERED, FLAG_DELETED, FLAG_DRAFT, FLAG_FLAGGED, FLAG_SEEN } from '@mailstead/index'

export const KEYWORDS_FILE = 'dovecot-keywords'
/** Largest such file that is read, in bytes. */
export const KEYWORDS_BYTES_MAX: number = 1024 * 1024
const INFO = ':2,'
const LETTERS: Readonly<Record<string, number>> = {
  D: FLAG_DRAFT,
  F: FLAG_FLAGGED,
  R: FLAG_ANSWERED,
  S: FLAG_SEEN,
  T: FLAG_DELETED,
}

/** Names of the keywords a … z, by number. FORMAT of the file: lines of a number, a space and a name. */
export function readKeywords(bytes: Uint8Array): readonly (string | undefined)[] {
  const names: (string | undefined)[] = []
  for (const line of Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString().split('\n')) {
    const match = /^(\d{1,4}) (\S+)$/.exec(line)
    if (match !== null) names[Number(match[1])] = match[2]
  }
  return names
}

/** System flags of `file`, and numbers of its keywords. P (passed on) has no place in IMAP and none in Dovecot. */
export function flagsOf(file: string): { readonly flags: number; readonly keywords: readonly number[] } {
  const at = file.indexOf(INFO)
  let flags = 0
  const keywords: number[] = []
  if (at < 0) return { flags, keywords }
  for (let i = at + INFO.length; i < file.length; i++) {
    // Other programs put more behind a comma.
    if (file[i] === ',') break
    const code = file.charCodeAt(i)
    if (code >= 0x61 && code <= 0x7a) keywords.push(code - 0x61)
    else flags |= LETTERS[file[i]!] ?? 0
  }
  return { flags, keywords }
}
