/**
 * The key of a domain: whoever shares it names equal bytes equally, and nobody else can tell from a name what the bytes are.
 *
 * FORMAT   64 bytes: magic `maildomn`, u16 version 0, u16 0, domain (16 bytes), key (32 bytes), u32 crc of the 60 before it
 *
 * The file is written once, by whoever makes the directory, and never changes. With it lost, blobs are still read (their
 * checksums need no key); equal bytes are then not recognised any more. See docs/formats/blob.md.
 */
import { createHmac } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { type Fs, FsError } from '@mailstead/fs'
import { DOMAIN_BYTES } from './blob-format.ts'
import { SisError } from './error.ts'

/** Must not change: on disk. */
export const DOMAIN_FILE = 'domain'
export const DOMAIN_KEY_BYTES = 32
const FILE_BYTES = 64
const MAGIC = Buffer.from('maildomn', 'latin1')
const VERSION = 0

export interface Domain {
  /** DOMAIN_BYTES bytes. */
  readonly id: Uint8Array
  /** DOMAIN_KEY_BYTES bytes. */
  readonly key: Uint8Array
}

/** The domain of a key: its id tells two keys apart, and nothing about them. */
export function domainOf(key: Uint8Array): Domain {
  if (key.length !== DOMAIN_KEY_BYTES) throw new TypeError(`the key of a domain has ${DOMAIN_KEY_BYTES} bytes`)
  return { id: createHmac('sha256', key).update('mailstead domain').digest().subarray(0, DOMAIN_BYTES), key }
}

export function writeDomain({ id, key }: Domain): Buffer {
  const bytes = Buffer.alloc(FILE_BYTES)
  bytes.set(MAGIC)
  bytes.writeUInt16LE(VERSION, 8)
  bytes.set(id, 12)
  bytes.set(key, 28)
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 60)), 60)
  return bytes
}

/** Undefined unless these are the bytes of a valid file. */
export function readDomain(bytes: Buffer): Domain | undefined {
  if (bytes.length !== FILE_BYTES || !bytes.subarray(0, 8).equals(MAGIC) || bytes.readUInt16LE(8) !== VERSION)
    return undefined
  if (bytes.readUInt32LE(60) !== crc32(bytes.subarray(0, 60))) return undefined
  return { id: bytes.subarray(12, 28), key: bytes.subarray(28, 60) }
}

export interface OpenDomainOptions {
  /** Make it if there is none. */
  readonly create: boolean
  /** The key, where the application keeps it itself: then there is no file. */
  readonly key?: Uint8Array | undefined
  readonly random: (bytes: Uint8Array) => void
}

/** The domain of the directory. SIS_NO_STORE if there is none, SIS_CORRUPT if its file is damaged. */
export async function openDomain(fs: Fs, path: string, options: OpenDomainOptions): Promise<Domain> {
  if (options.key !== undefined) return domainOf(options.key)
  const file = `${path}/${DOMAIN_FILE}`
  for (;;) {
    const found = await readOrUndefined(fs, file)
    if (found !== undefined) {
      const domain = readDomain(found)
      if (domain === undefined) throw new SisError('SIS_CORRUPT', `${file} is damaged`, { file })
      return domain
    }
    if (!options.create) throw new SisError('SIS_NO_STORE', `${path} holds no attachments`, { file })
    const key = new Uint8Array(DOMAIN_KEY_BYTES)
    options.random(key)
    const domain = domainOf(key)
    try {
      await fs.writeFile(file, writeDomain(domain), { ifAbsent: true })
      return domain
    } catch (error) {
      // Somebody else was first, or may have been: what is there decides.
      if (!(error instanceof FsError) || (error.code !== 'FS_EXISTS' && error.code !== 'FS_UNCERTAIN')) throw error
    }
  }
}

export async function readOrUndefined(fs: Fs, path: string): Promise<Buffer | undefined> {
  try {
    const bytes = await fs.readFile(path)
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  } catch (error) {
    if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
    throw error
  }
}
