/** Header fields found in bytes, without making strings of them. */

const CR = 13
const LF = 10
const SPACE = 32
const TAB = 9
const COLON = 58
const LOWER = 32

/** Names in lower case, as bytes. */
export function fieldNames(names: readonly string[]): readonly Uint8Array[] {
  return names.map((name) => Buffer.from(name.toLowerCase(), 'latin1'))
}

/** Where the field that begins at `at` ends: after the line end that no blank follows, or at `end`. */
export function fieldEnd(bytes: Uint8Array, at: number, end: number): number {
  for (let i = at; i < end; i++) {
    if (bytes[i] !== LF) continue
    const next = bytes[i + 1]
    if (i + 1 >= end || (next !== SPACE && next !== TAB)) return i + 1
  }
  return end
}

/** Where the value of the field at `at` begins, after its colon, if the field has one of the names; otherwise -1. */
export function namedField(bytes: Uint8Array, at: number, end: number, names: readonly Uint8Array[]): number {
  const first = bytes[at]! | LOWER
  for (let n = 0; n < names.length; n++) {
    const name = names[n]!
    const { length } = name
    if (name[0] !== first || at + length >= end) continue
    let i = 1
    while (i < length && lower(bytes[at + i]!) === name[i]) i++
    if (i < length) continue
    let after = at + length
    while (bytes[after] === SPACE || bytes[after] === TAB) after++
    if (bytes[after] === COLON) return after + 1
  }
  return -1
}

/** The value as text, one character a byte, with its folds undone. */
export function fieldValue(bytes: Buffer, start: number, end: number): string {
  const value = bytes.toString('latin1', start, end)
  return value.indexOf('\n') === value.length - 1 ? value : value.replace(/\r?\n(?=[ \t])/g, '')
}

/** Whether the header ends here: an empty line. */
export function headerEnds(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === LF || (bytes[at] === CR && bytes[at + 1] === LF)
}

function lower(byte: number): number {
  return byte >= 65 && byte <= 90 ? byte | LOWER : byte
}
