import type { Fs, FsSupports } from './contract.ts'
import { FsError } from './error.ts'

/** Throws FS_UNSUPPORTED, naming everything that is missing at once, unless `fs` supports all of `names`. Call it at open. */
export function requireSupport(fs: Pick<Fs, 'name' | 'supports'>, names: readonly (keyof FsSupports)[]): void {
  const missing = names.filter((name) => !fs.supports[name])
  if (missing.length > 0)
    throw new FsError('FS_UNSUPPORTED', `${fs.name} does not support ${missing.join(', ')}, which is needed here`)
}
