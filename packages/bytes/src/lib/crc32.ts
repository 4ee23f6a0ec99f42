import { crc32 as native } from 'node:zlib'

/**
 * CRC-32 as in zlib, gzip and PNG (reflected polynomial 0xEDB88320), computed natively.
 * `seed` is the result for the bytes before these: `crc32(b, crc32(a))` is the checksum of `a` followed by `b`.
 */
export function crc32(data: Uint8Array, seed = 0): number {
  return native(data, seed)
}
