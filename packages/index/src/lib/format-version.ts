/**
 * The version of the formats of the log, its control file, snapshots and lists of tables.
 *
 * 0  before the first release. Sealed in one slot of the control file; a log in objects was never sealed. Read alike.
 * 1  sealed in both slots, and among objects.
 * 2  the list of tables tells which frames come after each snapshot: opening reads no others.
 *
 * Every version that was ever written is read; what is written from then on is of the newest, in files of older ones too.
 */

// must not change: on disk
export const FORMAT_VERSION = 2

export function isKnownVersion(version: number): boolean {
  return version <= FORMAT_VERSION
}
