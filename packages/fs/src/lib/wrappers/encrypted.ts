/**
 * Encryption for a file system: AES-256-GCM, chunk by chunk, so that any range can be read without the rest.
 *
 * Every file has a key of its own, derived by HKDF-SHA-256 from the injected key, 32 random bytes in its header, and all
 * else that its header says. Every chunk has a random nonce of 96 bits, and is authenticated together with its head and its
 * place. So two chunks of one file meet in a nonce with a probability below n² / 2^97: 2^-49 for the 2^24 chunks that a file may
 * have; chunks of different files never share a key unless two of 2^256 ids are equal.
 *
 * What is not hidden: names, sizes, times, and how a file grew. What is not noticed: a whole file put in the place of
 * another, or of a newer version of itself, and appends that are missing at the end of a file.
 */
import { createCipheriv, createDecipheriv, hkdfSync, timingSafeEqual } from 'node:crypto'
import { checkBytes } from '../arguments.ts'
import type { Fs } from '../contract.ts'
import { FsError } from '../error.ts'
import { CHUNK_BYTES, chunkedFs } from './chunked.ts'
import {
  type ChunkCodec,
  type ChunkSeal,
  decodeHeader,
  headerBytes,
  ID_BYTES,
  NONCE_AT,
  NONCE_BYTES,
} from './chunked-format.ts'

/** Where keys come from: a file, the environment, a key service. */
export interface EncryptionKeys {
  /** Id of the key for what is written from now on: 1 to 63 printable ASCII characters. It is stored in the clear. */
  readonly current: string
  /** The 32 bytes of a key, or undefined if there is none of this id. Keys must not change under their id. */
  get(id: string): Uint8Array | undefined | Promise<Uint8Array | undefined>
}

export interface EncryptedOptions {
  readonly keys: EncryptionKeys
  /** Bytes authenticated at once, 64 to 16 MiB: reading one byte decrypts all of them. (default 65,536) */
  readonly chunkBytes?: number
}

export interface EncryptedFs extends Fs {
  /** Id of the key of a file; undefined for a file to which nothing was ever written. FS_NOT_FOUND, FS_CORRUPT. */
  keyId(path: string): Promise<string | undefined>
  /**
   * Writes a file anew, under the current key, unless that is its key already. All or nothing, and only if nobody changed
   * it meanwhile (FS_CONFLICT) where `supports.conditional`; those who append must be kept away.
   */
  rotate(path: string): Promise<'rotated' | 'current'>
}

// All of these must not change: on disk.
const KEY_ID_BYTES = 64
const KEY_CHECK_BYTES = 16
const TAG_BYTES = 16
const KEY_BYTES = 32
const PURPOSE = Buffer.from('mailstead fs-encrypted 0\0')
const CIPHER = 'aes-256-gcm'

const ROTATE_READ_BYTES = 1_048_576

/**
 * `inner` with contents encrypted and authenticated. FS_DENIED if there is no key for a file or not the right one; FS_CORRUPT
 * if a chunk is not what was written at its place in its file. Files can be renamed, linked and copied below. Appends work;
 * overwriting is not supported. Those who append to one file in several processes exclude each other by a lock. Disposing it
 * disposes `inner`. See docs/formats/fs-encrypted.md.
 */
export function encrypted(inner: Fs, options: EncryptedOptions): EncryptedFs {
  const { keys } = options
  checkKeyId(keys.current)

  /** The seal of a file, and what proves that the key is the right one. */
  const sealOf = async (fixed: Buffer, keyField: Buffer, path: string): Promise<{ seal: ChunkSeal; check: Buffer }> => {
    const id = keyIdOf(keyField, path)
    const key = await keys.get(id)
    if (key === undefined) throw new FsError('FS_DENIED', `${path}: there is no key ${id}`, { path })
    checkBytes(key)
    if (key.length !== KEY_BYTES) throw new RangeError(`key ${id} has ${key.length} bytes, not ${KEY_BYTES}`)
    const salt = fixed.subarray(12, 12 + ID_BYTES)
    const info = Buffer.concat([PURPOSE, fixed, keyField])
    const derived = Buffer.from(hkdfSync('sha256', key, salt, info, KEY_BYTES + KEY_CHECK_BYTES))
    return { seal: gcmSeal(derived.subarray(0, KEY_BYTES)), check: derived.subarray(KEY_BYTES) }
  }

  const codec: ChunkCodec = {
    name: 'encrypted',
    letter: 'E',
    parametersBytes: KEY_ID_BYTES + KEY_CHECK_BYTES,
    tagBytes: TAG_BYTES,
    async create(fixed, path) {
      const id = keys.current
      checkKeyId(id)
      const keyField = Buffer.alloc(KEY_ID_BYTES)
      keyField[0] = id.length
      keyField.write(id, 1, 'latin1')
      const { seal, check } = await sealOf(fixed, keyField, path)
      return { parameters: Buffer.concat([keyField, check]), seal }
    },
    async open(fixed, parameters, path) {
      const keyField = parameters.subarray(0, KEY_ID_BYTES)
      const { seal, check } = await sealOf(fixed, keyField, path)
      if (!timingSafeEqual(check, parameters.subarray(KEY_ID_BYTES)))
        throw new FsError('FS_DENIED', `${path}: key ${keyIdOf(keyField, path)} is not the one it was written with`, {
          path,
        })
      return seal
    },
  }
  const fs = chunkedFs(inner, codec, options.chunkBytes ?? CHUNK_BYTES)

  const keyId = async (path: string): Promise<string | undefined> => {
    // Of this file system, so that paths are checked and what is closed stays closed.
    const stat = await fs.stat(path)
    if (stat?.kind !== 'file') throw new FsError('FS_NOT_FOUND', `${path} does not exist`, { path })
    const header = decodeHeader(codec, Buffer.from(await inner.readFile(path, { end: headerBytes(codec) })))
    return header === undefined ? undefined : keyIdOf(header.parameters, path)
  }
  return Object.assign(fs, {
    keyId,
    async rotate(path: string) {
      const before = await fs.stat(path)
      const id = await keyId(path)
      if (before === undefined || id === undefined || id === keys.current) return 'current' as const
      await using file = await fs.open(path, 'read')
      async function* content(): AsyncGenerator<Uint8Array> {
        for (let at = 0; ; ) {
          const buffer = Buffer.allocUnsafe(ROTATE_READ_BYTES)
          const count = await file.read(buffer, at)
          if (count === 0) return
          yield buffer.subarray(0, count)
          at += count
        }
      }
      await fs.writeFile(path, content(), {
        ...(fs.supports.conditional ? { ifMatch: before.tag } : {}),
        ...(before.metadata === undefined ? {} : { metadata: before.metadata }),
      })
      return 'rotated' as const
    },
  })
}

function gcmSeal(key: Buffer): ChunkSeal {
  return {
    protect(payload, place) {
      const cipher = createCipheriv(CIPHER, key, place.subarray(NONCE_AT, NONCE_AT + NONCE_BYTES), {
        authTagLength: TAG_BYTES,
      })
      cipher.setAAD(place)
      const hidden = cipher.update(payload)
      cipher.final()
      return [hidden, cipher.getAuthTag()]
    },
    reveal(body, place) {
      if (body.length < TAG_BYTES) return undefined
      const decipher = createDecipheriv(CIPHER, key, place.subarray(NONCE_AT, NONCE_AT + NONCE_BYTES), {
        authTagLength: TAG_BYTES,
      })
      decipher.setAAD(place)
      decipher.setAuthTag(body.subarray(-TAG_BYTES))
      const payload = decipher.update(body.subarray(0, -TAG_BYTES))
      try {
        decipher.final()
      } catch {
        return undefined
      }
      return payload
    },
  }
}

function keyIdOf(keyField: Buffer, path: string): string {
  const length = keyField[0]!
  const id = keyField.toString('latin1', 1, 1 + length)
  if (length === 0 || length >= KEY_ID_BYTES || !isKeyId(id))
    throw new FsError('FS_CORRUPT', `${path}: its header names no key`, { path })
  return id
}

function checkKeyId(id: string): void {
  if (!isKeyId(id)) throw new RangeError(`a key's id is 1 to ${KEY_ID_BYTES - 1} printable ASCII characters`)
}

function isKeyId(id: string): boolean {
  return id.length > 0 && id.length < KEY_ID_BYTES && /^[\x20-\x7e]+$/.test(id)
}
