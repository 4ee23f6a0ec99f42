/**
 * /proc/self/mountinfo of Linux (proc(5)), one mount a line, fields separated by spaces:
 *
 *   36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
 *   id parent device root path options [optional …] - type source super-options
 *
 * Any number of optional fields, also none, ends with a lone `-`. Space, tab, newline and backslash within a field are
 * written as three octal digits after a backslash; so is `#` by newer kernels.
 */
import type { MountRow } from './probe.ts'

const REQUIRED_FIELDS = 6

/** Lines that are no mount are left out: a field more in a kernel to come must not take the table away. */
export function parseMountinfo(text: string): MountRow[] {
  const rows: MountRow[] = []
  for (const line of text.split('\n')) {
    const fields = line.split(' ')
    const end = fields.indexOf('-', REQUIRED_FIELDS)
    const [id, parent, , root, path] = fields
    const type = fields[end + 1]
    if (end < 0 || root === undefined || path?.startsWith('/') !== true || !type) continue
    rows.push({
      id: Number(id),
      parent: Number(parent),
      root: unescape(root),
      path: unescape(path),
      type: unescape(type),
      source: unescape(fields[end + 2] ?? ''),
    })
  }
  return rows
}

/** The bytes that octal escapes stand for, as UTF-8. */
function unescape(field: string): string {
  if (!field.includes('\\')) return field
  return Buffer.from(
    Buffer.from(field)
      .toString('latin1')
      .replaceAll(/\\([0-3][0-7]{2})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    'latin1',
  ).toString()
}
