import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { boxConformance } from '@mailstead/box/testing'
import { memoryFs } from '@mailstead/fs/memory'
import { posixFs } from '@mailstead/fs/posix'
import { describe, it } from 'vitest'
import { mdbox } from './mdbox.ts'

describe('mdbox in memory', () => {
  boxConformance(
    { describe, it },
    {
      create: async () => {
        const fs = memoryFs()
        return { format: mdbox(fs, 'storage'), [Symbol.asyncDispose]: async () => fs[Symbol.asyncDispose]() }
      },
    },
  )
})

describe('mdbox on a disk', () => {
  boxConformance(
    { describe, it },
    {
      create: async () => {
        const directory = await mkdtemp(join(tmpdir(), 'mdbox-'))
        const fs = await posixFs(directory)
        return {
          format: mdbox(fs, 'storage'),
          [Symbol.asyncDispose]: async () => {
            await fs[Symbol.asyncDispose]()
            await rm(directory, { recursive: true })
          },
        }
      },
    },
  )
})
