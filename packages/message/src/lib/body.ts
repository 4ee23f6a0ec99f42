/**
 * Transfer encodings undone (RFC 2045 §6), tolerant of everything: what is not of the encoding is skipped or kept as it is.
 */

import { asBuffer } from './header.ts'

/** Decodes base64 and quoted-printable; anything else comes back as it is. `encoding` in any case. */
export function decodeBody(bytes: Uint8Array, encoding: string | undefined): Uint8Array {
  switch (encoding?.toLowerCase()) {
    case 'base64':
      return decodeBase64(asBuffer(bytes))
    case 'quoted-printable':
      return decodeQuotedPrintable(asBuffer(bytes))
    default:
      return bytes
  }
}

const SKIP = 0x40
const PAD = 0x41
const base64: Uint8Array = new Uint8Array(256).fill(SKIP)
for (let i = 0; i < 64; i++) {
  base64['ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'.charCodeAt(i)] = i
}
base64['='.charCodeAt(0)] = PAD

/** What is not of the alphabet is skipped; padding ends a run, so that joined encodings decode too. */
function decodeBase64(bytes: Buffer): Buffer {
  const out = Buffer.allocUnsafe(Math.ceil((bytes.length * 3) / 4) + 3)
  let to = 0
  let bits = 0
  let count = 0
  for (let i = 0; i < bytes.length; i++) {
    const value = base64[bytes[i]!]!
    if (value < 64) {
      bits = ((bits << 6) | value) & 0xffffff
      if (++count === 4) {
        out[to] = bits >> 16
        out[to + 1] = bits >> 8
        out[to + 2] = bits
        to += 3
        count = 0
      }
    } else if (value === PAD) {
      to = endOfRun(out, to, bits, count)
      count = 0
    }
  }
  to = endOfRun(out, to, bits, count)
  return out.subarray(0, to)
}

function endOfRun(out: Buffer, to: number, bits: number, count: number): number {
  if (count === 2) out[to++] = bits >> 4
  else if (count === 3) {
    out[to++] = bits >> 10
    out[to++] = bits >> 2
  }
  return to
}

function hex(byte: number | undefined): number {
  if (byte === undefined) return -1
  if (byte >= 0x30 && byte <= 0x39) return byte - 0x30
  const letter = byte | 0x20
  return letter >= 0x61 && letter <= 0x66 ? letter - 0x57 : -1
}

/** Blanks before a line end are transport padding (RFC 2045 §6.7 rule 3); an = that is no code stands for itself. */
function decodeQuotedPrintable(bytes: Buffer): Buffer {
  const out = Buffer.allocUnsafe(bytes.length)
  let to = 0
  let solid = 0
  for (let i = 0; i < bytes.length; ) {
    const byte = bytes[i]!
    if (byte === 0x3d) {
      const high = hex(bytes[i + 1])
      const low = hex(bytes[i + 2])
      if (high >= 0 && low >= 0) {
        out[to++] = (high << 4) | low
        solid = to
        i += 3
        continue
      }
      let next = i + 1
      while (bytes[next] === 0x20 || bytes[next] === 9) next++
      if (bytes[next] === 13 && bytes[next + 1] === 10) next++
      if (bytes[next] === 10 || next >= bytes.length) {
        solid = to
        i = next + 1
        continue
      }
    } else if (byte === 10 || (byte === 13 && bytes[i + 1] === 10)) to = solid
    out[to++] = byte
    if (byte !== 0x20 && byte !== 9) solid = to
    i++
  }
  return out.subarray(0, to)
}
