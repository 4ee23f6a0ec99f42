/**
 * Where a path leads, asking what may hang before it is looked at: a link may lead there, and a `stat` of the link already hangs.
 */
import { mayHang } from './kinds.ts'
import { MountTable } from './mount-table.ts'
import type { MountProbe } from './probe.ts'

/** How many mounts that may hang can be on the way. */
const FAR_MAX = 40

/** Resolves when `path` may be looked at: everything on the way to it has answered that may hang. FS_UNAVAILABLE. */
export async function answers(probe: MountProbe, path: string): Promise<void> {
  try {
    await reach(probe, path)
  } catch (error) {
    // Whoever looks is told.
    if ((error as { readonly code?: unknown }).code === 'FS_UNAVAILABLE') throw error
  }
}

/** The real path, as `MountProbe.realPath`; it may be looked at. FS_UNAVAILABLE if something on the way does not answer. */
export async function reach(probe: MountProbe, path: string): Promise<string> {
  const answered = new Set<string>()
  let rows = await probe.table()
  for (;;) {
    const table: MountTable | undefined = rows && new MountTable(rows)
    const farAt = (at: string): string | undefined => {
      const on = table?.covering(at)
      return on === undefined || !mayHang(on.type) || answered.has(`${on.id} ${on.path}`) ? undefined : on.path
    }
    let far: string | undefined
    const real = probe.realPath(path, (at) => (far ??= farAt(at)) !== undefined)
    // Without links, or where the probe does not look at them one by one.
    far ??= farAt(real)
    if (far === undefined || answered.size >= FAR_MAX) return real
    const on = table!.at(far)!
    // What `autofs` waits for is mounted by looking inside; then it is a row of its own.
    await probe.alive(on.type === 'autofs' ? `${far}/.` : far)
    answered.add(`${on.id} ${far}`)
    if (on.type === 'autofs') rows = await probe.table()
  }
}
