/** Wrappers over wrappers over drivers keep the contract too. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { createFakeS3Fs } from '../../test/fake-s3.ts'
import type { Fs } from '../index.ts'
import { memoryFs } from '../memory.ts'
import { posixFs } from '../posix.ts'
import { fsConformance } from '../testing.ts'
import {
  cached,
  compressed,
  delayed,
  type EncryptionKeys,
  encrypted,
  limited,
  metadata,
  metered,
  prefixed,
  tiered,
} from '../wrappers.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const modelRuns = depth === 'soak' ? 1000 : depth === 'ci' ? 50 : 3

let base: string
let count = 0
beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'mailstead-fs-stacks-'))
})
afterAll(async () => {
  await rm(base, { recursive: true, force: true })
})
const posix = (): Promise<Fs> => posixFs(join(base, `${++count}`), { create: true })

const keys: EncryptionKeys = { current: 'one', get: (id) => (id === 'one' ? new Uint8Array(32).fill(7) : undefined) }

const stacks: Readonly<Record<string, () => Promise<Fs>>> = {
  'encrypted(compressed(posix))': async () => encrypted(compressed(await posix()), { keys }),
  'cached(delayed(s3))': async () =>
    cached(delayed(await createFakeS3Fs(), { latencyMs: (_, random) => (random < 0.1 ? 1 : 0) }), {
      local: memoryFs(),
      maxBytes: 1_000_000,
    }),
  'tiered(posix, s3)': async () => tiered(await posix(), await createFakeS3Fs()),
  'tiered(metadata(posix), s3)': async () => tiered(metadata(await posix()), await createFakeS3Fs()),
  'metered(limited(prefixed(posix)))': async () =>
    metered(limited(prefixed(await posix(), 'a/b'), { parallel: 2 }), {}),
  'metadata(encrypted(posix))': async () => metadata(encrypted(await posix(), { keys })),
  'prefixed(tiered(encrypted(memory), compressed(memory)))': async () =>
    prefixed(tiered(encrypted(memoryFs(), { keys }), compressed(memoryFs())), 'users'),
}

for (const [name, create] of Object.entries(stacks))
  describe(name, () => {
    fsConformance({ describe, it }, { create, modelRuns })
  })
