import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BoxUnderTest } from '@mailstead/box/testing'
import { boxConformance } from '@mailstead/box/testing'
import type { Fs } from '@mailstead/fs'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { fsMeter, limited, metered, prefixed } from '@mailstead/fs/wrappers'
import { describe, it } from 'vitest'
import { sdbox } from './sdbox.ts'

function over(make: () => Fs): BoxUnderTest {
  return {
    create: async () => {
      const fs = make()
      return { format: sdbox(fs, 'storage'), [Symbol.asyncDispose]: async () => fs[Symbol.asyncDispose]() }
    },
  }
}

describe('sdbox in memory', () => {
  boxConformance(
    { describe, it },
    over(() => memoryFs()),
  )
})

describe('sdbox in memory with a second tier, compressed', () => {
  boxConformance(
    { describe, it },
    {
      create: () => {
        const fs = memoryFs()
        const format = sdbox(fs, 'storage', { compression: 3, alt: { fs, path: 'alt' } })
        return Promise.resolve({ format, [Symbol.asyncDispose]: async () => fs[Symbol.asyncDispose]() })
      },
    },
  )
})

describe('sdbox where files have one name each, and are read asynchronously', () => {
  boxConformance(
    { describe, it },
    over(() => memoryFs({ syncRead: false, link: false })),
  )
})

describe('sdbox on a stack of wrappers, compressed', () => {
  const stack = (): Fs => prefixed(limited(metered(memoryFs(), { meter: fsMeter() }), { parallel: 3 }), 'deep/inside')
  boxConformance(
    { describe, it },
    {
      create: async () => {
        const fs = stack()
        return {
          format: sdbox(fs, 'storage', { compression: 'auto' }),
          [Symbol.asyncDispose]: async () => fs[Symbol.asyncDispose](),
        }
      },
    },
  )
})

describe('sdbox on a disk', () => {
  boxConformance(
    { describe, it },
    {
      create: async () => {
        const directory = await mkdtemp(join(tmpdir(), 'sdbox-'))
        const fs = await posixFs(directory)
        return {
          format: sdbox(fs, 'storage'),
          [Symbol.asyncDispose]: async () => {
            await fs[Symbol.asyncDispose]()
            await rm(directory, { recursive: true })
          },
        }
      },
    },
  )
})
