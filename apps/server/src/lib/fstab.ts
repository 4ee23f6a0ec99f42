/**
 * What an administrator wrote down to be mounted: fstab(5), one mount a line, fields separated by blanks:
 *
 *   /dev/sdb1 /srv/mail ext4 defaults 0 2
 *   what      where     type options …
 *
 * `#` begins a comment. Space, tab, newline and backslash within a field are three octal digits after a backslash.
 */
import { readFileSync } from 'node:fs'

const FSTAB = '/etc/fstab'

/** Empty where there is none, or it cannot be read: then nobody knows. */
export function readFstab(): string {
  try {
    return readFileSync(FSTAB, 'utf8')
  } catch {
    return ''
  }
}

/** The nearest directory at or above `path` that is to be a mount point; undefined if there is none but `/`. */
export function fstabMountPoint(fstab: string, path: string): string | undefined {
  let nearest: string | undefined
  for (const line of fstab.split('\n')) {
    const [what, where] = line.trim().split(/[ \t]+/)
    if (what === undefined || what.startsWith('#') || where?.startsWith('/') !== true) continue
    const point = unescape(where).replace(/\/+$/, '')
    if (point === '' || (path !== point && !path.startsWith(`${point}/`))) continue
    if (nearest === undefined || point.length > nearest.length) nearest = point
  }
  return nearest
}

function unescape(field: string): string {
  return field.replaceAll(/\\([0-3][0-7]{2})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)))
}
