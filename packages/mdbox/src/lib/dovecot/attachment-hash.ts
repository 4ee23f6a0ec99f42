/**
 * Names of attachments that say what the bytes are: `<hash>-<random>` for each reference, `hashes/<hash>` for all of them.
 *
 * The hash is SHA-1 by default; Dovecot can be told another one, to shorten it (`%{sha256:80}`), or to add the size (`%{sha1}%{size}`).
 * The name does not say which, so what is not of the usual kind is tried with all of them.
 */
import { createHash, type Hash } from 'node:crypto'

/** Hexadecimal digits of each. What has as many digits as the name is tried first. */
const ALGORITHMS: readonly (readonly [name: string, digits: number])[] = [
  ['sha1', 40],
  ['sha256', 64],
  ['sha512', 128],
  ['md5', 32],
  ['sha384', 96],
  ['sha3-256', 64],
  ['sha3-512', 128],
]
/** As `%{size}` is written. */
const SIZE_DIGITS = 16
/** Of fewer digits other bytes could have the same by chance. */
const DIGITS_MIN = 16

/** `unverified`: the name has no hash that we know. */
export type NameVerdict = 'whole' | 'damaged' | 'unverified'

/** What of a name is the hash. */
export function digestOf(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1)
  const dash = name.indexOf('-')
  return dash < 0 ? name : name.slice(0, dash)
}

/** Whether the name says anything about the bytes. */
export function isProof(digest: string): boolean {
  return digest.length >= DIGITS_MIN && /^[0-9a-f]+$/.test(digest)
}

/** Whether the bytes are those that the name tells of. `read` is called again where the hash is not the usual one of its length. */
export async function verifyDigest(digest: string, read: () => AsyncIterable<Uint8Array>): Promise<NameVerdict> {
  if (!isProof(digest)) return 'unverified'
  const usual = ALGORITHMS.filter(([, digits]) => digits === digest.length).slice(0, 1)
  const others = ALGORITHMS.filter((one) => !usual.includes(one))
  for (const list of [usual, others]) {
    if (list.length === 0) continue
    const hashes = list.map(([name]): Hash => createHash(name))
    let size = 0
    for await (const piece of read()) {
      size += piece.length
      for (const hash of hashes) hash.update(piece)
    }
    for (const hash of hashes) {
      const hex = hash.digest('hex')
      if (hex.startsWith(digest) || digest === hex + size.toString(16).padStart(SIZE_DIGITS, '0')) return 'whole'
    }
  }
  return 'damaged'
}
