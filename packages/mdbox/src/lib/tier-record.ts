/**
 * What says which second tier belongs to which box: a marker in the tier, and a record of the same identity beside the messages of the
 * first tier, where it survives the loss of the index.
 *
 * FORMAT   marker  `<tier>/mailstead-alt`   := "mailstead-alt 0 " uuid SP crc LF
 *          record  `<box>/second-tier`      := "mailstead-tier 0 " format SP uuid SP crc LF
 *          uuid: 32 lower-case hex digits; format: of the box's messages, "mdbox" or "sdbox";
 *          crc: CRC-32 of what is before the space that precedes it, in 8. must not change: on disk
 */
import { crc32, parseHex, toHex } from '@mailstead/bytes'
import { type Fs, FsError } from '@mailstead/fs'
import { hex8 } from './format.ts'

/** must not change: on disk */
export const ALT_MARKER = 'mailstead-alt'
export const TIER_RECORD = 'second-tier'
/** Neither is longer, in bytes. */
const LINE_MAX = 256

export interface TierRecord {
  /** Of the messages: `mdbox`, `sdbox`. */
  readonly format: string
  /** 16 bytes. */
  readonly uuid: Uint8Array
}

export function writeMarker(uuid: Uint8Array): Buffer {
  return withSum(`mailstead-alt 0 ${toHex(uuid)}`)
}

/** Undefined: this is no marker. */
export function readMarker(bytes: Uint8Array): Uint8Array | undefined {
  const match = /^mailstead-alt 0 ([0-9a-f]{32})$/.exec(summed(bytes) ?? '')
  return match === null ? undefined : parseHex(match[1]!)
}

export function writeTierRecord({ format, uuid }: TierRecord): Buffer {
  return withSum(`mailstead-tier 0 ${format} ${toHex(uuid)}`)
}

/** Undefined: this is none. */
export function readTierRecord(bytes: Uint8Array): TierRecord | undefined {
  const match = /^mailstead-tier 0 ([a-z]{1,16}) ([0-9a-f]{32})$/.exec(summed(bytes) ?? '')
  return match === null ? undefined : { format: match[1]!, uuid: parseHex(match[2]!)! }
}

/** The record beside the messages in `directory`. Undefined: there is none. */
export async function findTierRecord(fs: Fs, directory: string): Promise<TierRecord | 'damaged' | undefined> {
  try {
    return readTierRecord(await fs.readFile(`${directory}/${TIER_RECORD}`, { end: LINE_MAX })) ?? 'damaged'
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}

/** Either of the two as a line for people; undefined if these bytes are not meant to be one. */
export function dumpTier(bytes: Uint8Array): string | undefined {
  const start = Buffer.from(bytes.subarray(0, 15)).toString('latin1')
  if (bytes.length > LINE_MAX) return undefined
  if (start.startsWith('mailstead-alt ')) {
    const uuid = readMarker(bytes)
    return uuid === undefined ? '0 DAMAGED marker of a second tier' : `0 marker of the second tier ${toHex(uuid)}`
  }
  if (start !== 'mailstead-tier ') return undefined
  const record = readTierRecord(bytes)
  if (record === undefined) return '0 DAMAGED record of a second tier'
  return `0 record of a second tier, ${record.format}, ${toHex(record.uuid)}`
}

function withSum(text: string): Buffer {
  return Buffer.from(`${text} ${hex8(crc32(Buffer.from(text)))}\n`)
}

/** The text before the checksum, if that fits. */
function summed(bytes: Uint8Array): string | undefined {
  if (bytes.length > LINE_MAX) return undefined
  const match = /^([\x20-\x7e]+) ([0-9a-f]{8})\n$/.exec(Buffer.from(bytes).toString('latin1'))
  return match !== null && Number.parseInt(match[2]!, 16) === crc32(Buffer.from(match[1]!)) ? match[1] : undefined
}
