/** What is seen of one mount that must be there. */
import { dirname } from 'node:path'
import type { Mount, MountObserved, MountVolume } from './contract.ts'
import { mayHang } from './kinds.ts'
import { MountTable } from './mount-table.ts'
import type { Look, MountProbe, MountRow } from './probe.ts'
import { describeChange, sameVolume } from './volume.ts'

export interface Seen {
  readonly observed: MountObserved
  /** Empty if it is mounted. */
  readonly why: string
  /** What is mounted there, if anything is. */
  readonly volume: MountVolume | undefined
}

/** Never fails: what cannot be reached is absent. */
export async function observe(probe: MountProbe, mount: Pick<Mount, 'path' | 'volume'>): Promise<Seen> {
  const { path, volume: known } = mount
  try {
    const volume = await volumeAt(probe, path)
    if (typeof volume === 'string') return { observed: 'absent', why: volume, volume: undefined }
    if (known === undefined || sameVolume(known, volume)) return { observed: 'mounted', why: '', volume }
    const [was, is] = describeChange(known, volume)
    const why = `${path} has ${is} mounted, not ${was}`
    return { observed: 'changed', why, volume }
  } catch (error) {
    const why = `${path} cannot be reached: ${error instanceof Error ? error.message : String(error)}`
    return { observed: 'absent', why, volume: undefined }
  }
}

/** What is mounted at exactly `path`, or why nothing is. */
export async function volumeAt(probe: MountProbe, path: string): Promise<MountVolume | string> {
  let row = await rowAt(probe, path)
  if (row?.type === 'autofs') {
    // Looking inside has it mounted.
    await probe.alive(`${path}/.`)
    row = await rowAt(probe, path)
    if (row?.type === 'autofs') return `${path} waits to be mounted when it is used, and was not`
  }
  const look = probe.look(path)
  if (look === undefined) return `${path} is not there`
  if (!look.directory) return `${path} is no directory`
  if (row === undefined && !isOther(probe.look(dirname(path)), look, path)) return `nothing is mounted on ${path}`
  const { type = '', source = '', root = '' } = row ?? {}
  return { type, source, root, ...(await probe.facts(path, source)) }
}

/** What is mounted at `path`; what it is on has answered. */
async function rowAt(probe: MountProbe, path: string): Promise<MountRow | undefined> {
  const rows = await probe.table()
  if (rows === undefined) return undefined
  const table = new MountTable(rows)
  const on = table.covering(path)
  if (on !== undefined && mayHang(on.type) && on.type !== 'autofs') await probe.alive(path)
  return table.at(path)
}

/** Another device than the directory that it is in. */
function isOther(parent: Look | undefined, { device }: Look, path: string): boolean {
  return path === '/' || (parent !== undefined && parent.device !== device)
}
