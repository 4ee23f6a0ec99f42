/**
 * Whether what is mounted is the file system that was there before.
 *
 * By the best that both know: the UUID of the device; where a network file system comes from; what statfs calls the file
 * system; else type and source. Numbers of devices are not asked: they are given anew at every start.
 */
import type { MountVolume } from './contract.ts'
import { mayHang } from './kinds.ts'

export function sameVolume(a: MountVolume, b: MountVolume): boolean {
  if (a.root !== '' && b.root !== '' && a.root !== b.root) return false
  if (a.uuid !== '' && b.uuid !== '') return a.uuid === b.uuid
  if (a.type === '' || b.type === '') return a.fsid === '' || b.fsid === '' || a.fsid === b.fsid
  // The number that statfs gives these is made at each mount.
  if (mayHang(a.type) || mayHang(b.type)) return family(a.type) === family(b.type) && a.source === b.source
  if (a.fsid !== '' && b.fsid !== '') return a.fsid === b.fsid
  return a.type === b.type && a.source === b.source
}

/** Whether `a` says something that `b` does not. */
export function knowsMore(a: MountVolume, b: MountVolume): boolean {
  return (['type', 'source', 'root', 'uuid', 'fsid'] as const).some((fact) => a[fact] !== '' && b[fact] === '')
}

/** For people: `a`, and `b` in its place, so that they differ. */
export function describeChange(a: MountVolume, b: MountVolume): readonly [string, string] {
  const [was, is] = [describeVolume(a), describeVolume(b)]
  return was === is ? [`${was} [${a.fsid}]`, `${is} [${b.fsid}]`] : [was, is]
}

/** For people. */
export function describeVolume({ type, source, root, uuid }: MountVolume): string {
  const part = root === '' || root === '/' ? '' : `, ${root} of it`
  return `${type === '' ? 'a file system' : type}${source === '' ? '' : ` from ${source}`}${part}${uuid === '' ? '' : ` (${uuid})`}`
}

/** nfs and nfs4, cifs and smb3 are names of one thing. */
function family(type: string): string {
  if (type.startsWith('nfs')) return 'nfs'
  return type.startsWith('smb') || type === 'cifs' ? 'smb' : type
}
