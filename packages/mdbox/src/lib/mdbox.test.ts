import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { boxConformance } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { delayed, fsMeter, metered, prefixed } from '@mailstead/fs/wrappers'
import { describe, it } from 'vitest'
import { mdbox } from './mdbox.ts'
import type { MdboxOptions } from './options.ts'

/** Over a disk of its own in memory. */
function inMemory(name: string, stack: (disk: Fs) => Fs, options: (disk: Fs) => MdboxOptions): void {
  describe(name, () => {
    boxConformance(
      { describe, it },
      {
        create: () => {
          const fs = stack(memoryFs())
          return Promise.resolve({
            format: mdbox(fs, 'storage', options(fs)),
            [Symbol.asyncDispose]: async () => fs[Symbol.asyncDispose](),
          })
        },
      },
    )
  })
}

/** What the box opened it disposes, but this is opened once for all. */
function kept(fs: Fs): Fs {
  return { ...fs, [Symbol.asyncDispose]: () => Promise.resolve() }
}

inMemory(
  'mdbox in memory',
  (disk) => disk,
  () => ({}),
)
inMemory(
  'mdbox in memory with a second tier, compressed',
  (disk) => disk,
  (fs) => ({ compression: 3, alt: { fs, path: 'alt' } }),
)
inMemory(
  'mdbox on a stack of wrappers, with a second tier, compressed',
  (disk) =>
    prefixed(
      delayed(metered(disk, { meter: fsMeter() }), { latencyMs: 0, sleep: () => Promise.resolve() }),
      'deep/inside',
    ),
  (fs) => ({ compression: 1, alt: { fs: () => Promise.resolve(kept(prefixed(fs, 'elsewhere'))), path: 'alt' } }),
)

describe('mdbox on a disk', () => {
  boxConformance(
    { describe, it },
    {
      create: async () => {
        const directory = await mkdtemp(join(tmpdir(), 'mdbox-'))
        const fs = await posixFs(directory)
        return {
          format: mdbox(fs, 'storage', { compression: 'auto' }),
          [Symbol.asyncDispose]: async () => {
            await fs[Symbol.asyncDispose]()
            await rm(directory, { recursive: true })
          },
        }
      },
    },
  )
})
