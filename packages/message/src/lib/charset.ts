/**
 * Bytes to text by charset name. WHATWG names and aliases, names seen in mail that the standard lacks, and UTF-7. What is
 * unknown is read as UTF-8 if it is valid, else as windows-1252: never an error, always some text.
 */

import { TextDecoder } from 'node:util'
import { asBuffer } from './header.ts'

const ALIASES: Readonly<Record<string, string>> = {
  'ansi_x3.110-1983': 'windows-1252',
  'cp-850': 'ibm850',
  cp936: 'gbk',
  cp949: 'euc-kr',
  cp932: 'shift_jis',
  cp950: 'big5',
  eucgb2312_cn: 'gb2312',
  'gb2312-80': 'gb2312',
  'iso-2022-cn': 'gbk',
  'ks_c_5601-1989': 'euc-kr',
  'utf-16': 'utf-16be',
  utf8mb4: 'utf-8',
  'iso-8859-8-e': 'iso-8859-8',
  'iso-8859-6-e': 'iso-8859-6',
  'x-unknown': '',
  'unknown-8bit': '',
  unknown: '',
}

/** Decoders by name as asked for; undefined for unknown names. Bounded: names come from mail. */
const decoders = new Map<string, TextDecoder | undefined>()
const DECODERS_MAX = 256

function decoderFor(charset: string): TextDecoder | undefined {
  if (decoders.has(charset)) return decoders.get(charset)
  let decoder: TextDecoder | undefined
  const name = ALIASES[charset] ?? charset
  for (const each of [
    name,
    name.replace(/^(?:cp|windows)-?(\d)/, 'windows-$1'),
    name.replace(/^(?:iso|latin)(\d)/, 'iso-$1'),
  ]) {
    try {
      decoder = new TextDecoder(each)
      break
    } catch {
      // not a name this runtime knows
    }
  }
  if (decoders.size < DECODERS_MAX) decoders.set(charset, decoder)
  return decoder
}

const strictUtf8: TextDecoder = new TextDecoder('utf-8', { fatal: true })

/** The decoder that a charset means for bytes that begin like this; undefined: it is to be guessed. */
function decoderOf(charset: string | undefined, start: Uint8Array): TextDecoder | 'utf-7' | undefined {
  const name = (charset ?? '')
    .trim()
    .toLowerCase()
    .replace(/^["']|["']$/g, '')
  if (name === 'utf-7' || name === 'unicode-1-1-utf-7') return 'utf-7'
  if (name === 'utf-8' || name === 'utf8') return decoderFor('utf-8')
  if (name === 'utf-16' && start[0] === 0xff && start[1] === 0xfe) return decoderFor('utf-16le')
  // us-ascii with bytes above 127 is mislabelled; it is guessed like an unknown charset.
  return name === '' || name === 'us-ascii' || name === 'ascii' ? undefined : decoderFor(name)
}

/** Text of bytes in a charset (undefined: unknown). Never fails; what cannot be read becomes U+FFFD. */
export function decodeText(bytes: Uint8Array, charset: string | undefined): string {
  const decoder = decoderOf(charset, bytes)
  if (decoder === 'utf-7') return decodeUtf7(bytes)
  if (decoder !== undefined) return decoder.decode(bytes)
  try {
    return strictUtf8.decode(bytes)
  } catch {
    return decoderFor('windows-1252')!.decode(bytes)
  }
}

/** Reads text in pieces, the last of them without `stream`. A `TextDecoder` is one. */
export interface TextReader {
  decode(bytes: Uint8Array, options: { readonly stream: boolean }): string
}

/**
 * Readers of a text that comes in pieces, the best one first: what the first gives that does not throw, put together, is what
 * `decodeText` gives of the whole. The last never throws. `start` is the first piece, of two bytes or more if there are as many.
 */
export function textReaders(charset: string | undefined, start: Uint8Array): readonly TextReader[] {
  const decoder = decoderOf(charset, start)
  if (decoder === 'utf-7') return [new Utf7Reader()]
  if (decoder !== undefined) return [new TextDecoder(decoder.encoding)]
  return [new TextDecoder('utf-8', { fatal: true }), new TextDecoder('windows-1252')]
}

/** Whether decodeText knows this charset, for the BADCHARSET answer of SEARCH. */
export function isKnownCharset(charset: string): boolean {
  const name = charset.trim().toLowerCase()
  return name === 'utf-7' || name === 'us-ascii' || name === 'ascii' || decoderFor(name) !== undefined
}

/** RFC 2152. */
function decodeUtf7(bytes: Uint8Array): string {
  const text = asBuffer(bytes).toString('latin1')
  return text.replace(/\+([A-Za-z0-9+/]*)-?/g, (whole, base64: string) => {
    if (base64 === '') return whole === '+-' ? '+' : whole
    const units = Buffer.from(base64, 'base64')
    let out = ''
    for (let i = 0; i + 1 < units.length; i += 2) out += String.fromCharCode(units.readUInt16BE(i))
    return out
  })
}

/** Bytes of UTF-7 that are waited for the end of a run in base64. */
const RUN_MAX = 1 << 20

class Utf7Reader implements TextReader {
  #rest: Buffer = Buffer.alloc(0)

  decode(bytes: Uint8Array, { stream }: { readonly stream: boolean }): string {
    const all = this.#rest.length === 0 ? asBuffer(bytes) : Buffer.concat([this.#rest, bytes])
    let end = all.length
    if (stream) {
      while (end > 0 && isUtf7Run(all[end - 1]!)) end--
      if (all.length - end > RUN_MAX) end = all.length
    }
    this.#rest = Buffer.from(all.subarray(end))
    return decodeUtf7(all.subarray(0, end))
  }
}

function isUtf7Run(byte: number): boolean {
  return (
    (byte >= 0x30 && byte <= 0x39) ||
    (byte >= 0x41 && byte <= 0x5a) ||
    (byte >= 0x61 && byte <= 0x7a) ||
    byte === 0x2b ||
    byte === 0x2f
  )
}
