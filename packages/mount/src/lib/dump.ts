import type { MountVolume } from './contract.ts'
import { MountError } from './error.ts'
import { decodeList, decodeSeen } from './list-format.ts'
import { describeVolume } from './volume.ts'

/** A file of the list as text, a mount a line. Never fails: of damage it says what it is. */
export function* dumpMounts(bytes: Uint8Array): Generator<string, void, undefined> {
  try {
    if (bytes[10] === 2) {
      for (const { path, state, observed, sinceMs, why } of decodeSeen(bytes, 'this file'))
        yield `${path}: ${state}, ${observed} since ${new Date(sinceMs).toISOString()}${why === '' ? '' : ` (${why})`}`
      return
    }
    for (const { path, origin, state, mail, volume } of decodeList(bytes, 'this file'))
      yield `${path}: ${origin}, ${state}${mail ? ', mail' : ''}${volume === undefined ? '' : `, ${full(volume)}`}`
  } catch (error) {
    if (!(error instanceof MountError)) throw error
    yield `DAMAGED ${error.message}`
  }
}

function full(volume: MountVolume): string {
  return `${describeVolume(volume)}${volume.fsid === '' ? '' : ` fsid ${volume.fsid}`}`
}
