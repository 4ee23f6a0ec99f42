/** What a root is expected to be, and whether its marker says so. */
import { decodeRoot, FsError, ROOT_FILE, type Root, type RootRole } from '@mailstead/fs'

/** What is expected of a root; any that is marked if nothing is. The UUID seen first is expected from then on. */
export interface GuardRoot {
  /** 16 bytes. */
  readonly uuid?: Uint8Array
  readonly role?: RootRole
}

/** Bytes of a marker that are read: one more than it may have, so that what is longer is noticed. */
export const MARKER_READ_BYTES = 33

/** What is wrong with a root, for people; undefined if it is the one that is expected. `at` names the directory. */
export function whyNot(root: Root | undefined, expected: GuardRoot, at: string): string | undefined {
  if (root === undefined) return `${at} holds no ${ROOT_FILE}: it is not mounted, or was never made for mail`
  if (expected.role !== undefined && root.role !== expected.role)
    return `${at} is marked as ${root.role}, not as ${expected.role}`
  if (expected.uuid !== undefined && !sameUuid(root.uuid, expected.uuid))
    return `${at} is another root (${hex(root.uuid)}) than expected (${hex(expected.uuid)}): another volume is mounted`
  return undefined
}

/** Throws FS_UNAVAILABLE: of a damaged marker nobody knows whose it was, and nothing else is to be judged by that. */
export function rootOf(bytes: Uint8Array | undefined, at: string): Root | undefined {
  if (bytes === undefined) return undefined
  try {
    return decodeRoot(bytes)
  } catch (cause) {
    throw damagedMarker(cause, at)
  }
}

export function damagedMarker(cause: unknown, at: string): FsError {
  const why = cause instanceof Error ? cause.message : String(cause)
  return new FsError('FS_UNAVAILABLE', `it is not known what ${at} is: ${why}`, { path: ROOT_FILE, cause })
}

/** Throws on what can never be a root. */
export function checkExpected({ uuid }: GuardRoot): void {
  if (uuid !== undefined && uuid.length !== 16) throw new TypeError(`a root's UUID of ${uuid.length} bytes`)
}

function sameUuid(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
