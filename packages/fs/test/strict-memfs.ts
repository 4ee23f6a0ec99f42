/** For the tests: memfs as `node:fs` is. */
import type * as nodeFs from 'node:fs'
import { memfs } from 'memfs'
import type { PosixNodeFs } from '../src/lib/node-fs.ts'

/** memfs 4.80 replaces directories that have entries, and counts an entry that is replaced twice, so that its directory is never empty again. */
export function strictMemfs(): PosixNodeFs {
  const fs = memfs({ '/root': null }).fs as unknown as PosixNodeFs & typeof nodeFs
  const rename = (from: string, to: string, done: (error: NodeJS.ErrnoException | null) => void): void => {
    try {
      const there = fs.lstatSync(to, { throwIfNoEntry: false })
      if (there?.isDirectory() === true) fs.rmdirSync(to)
      else if (there !== undefined && there.ino !== fs.lstatSync(from).ino) fs.unlinkSync(to)
      fs.renameSync(from, to)
    } catch (error) {
      return done(error as NodeJS.ErrnoException)
    }
    done(null)
  }
  return Object.assign(Object.create(fs) as PosixNodeFs, { rename })
}
