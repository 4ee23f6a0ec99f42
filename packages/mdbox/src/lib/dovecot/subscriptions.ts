/**
 * The file `subscriptions`: a name a line. Version 2 begins with `V\t2` and an empty line, separates the levels of a name by tabs
 * and escapes what a line cannot hold; version 1 has names as they are stored.
 */
import { storedName } from './stored-name.ts'

export const SUBSCRIPTIONS_FILE = 'subscriptions'
export const SUBSCRIPTIONS_BYTES_MAX: number = 16 * 1024 * 1024

const VERSION_2 = /^V\t2\n/
const ESCAPE = '\u0001'
const ESCAPES: Readonly<Record<string, string>> = { '0': '\0', '1': ESCAPE, t: '\t', r: '\r', n: '\n' }

/** Names in Unicode with `/` between their levels, in the order of the file, each once. */
export function readSubscriptions(bytes: Uint8Array, separator: string): readonly string[] {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString()
  const version2 = VERSION_2.test(text)
  const names = new Set<string>()
  for (const line of (version2 ? text.replace(VERSION_2, '') : text).split('\n')) {
    if (line === '') continue
    const levels = version2 ? line.split('\t').map(unescape) : line.split(separator)
    const name = levels.map((level) => storedName(level).name).join('/')
    names.add(/^inbox$/i.test(name) ? 'INBOX' : name)
  }
  return Array.from(names)
}

function unescape(text: string): string {
  const [first, ...rest] = text.split(ESCAPE)
  return first! + rest.map((part) => (ESCAPES[part[0]!] ?? part[0] ?? '') + part.slice(1)).join('')
}
