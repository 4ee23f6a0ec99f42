/**
 * What `mount` prints without arguments, one mount a line:
 *
 *   macOS, FreeBSD    /dev/disk1s1 on / (apfs, local, journaled)           type first in the parentheses
 *   OpenBSD, NetBSD   /dev/sd0a on / type ffs (local)                      type by name
 *
 * Nothing is escaped. A mount point is absolute, so a source ends where ` on /` is first; the parentheses are the last ones. A name
 * that holds a newline makes two lines of which none is a mount.
 */
import type { MountRow } from './probe.ts'

export function parseMountOutput(text: string): MountRow[] {
  const rows: MountRow[] = []
  for (const line of text.split('\n')) {
    const [, source, rest] = /^(.+?) on (\/.*)$/.exec(line) ?? []
    if (source === undefined || rest === undefined) continue
    const [, before = rest, options = ''] = /^(.*) \(([^()]*)\)$/.exec(rest) ?? []
    const [, named, type] = /^(.*) type (\S+)$/.exec(before) ?? []
    rows.push({
      id: 0,
      parent: 0,
      root: '',
      path: named ?? before,
      type: type ?? options.split(',')[0]!.trim(),
      source,
    })
  }
  return rows
}
