import { describe, it } from 'vitest'
import { imapSessionConformance, memoryBackend } from '../testing.ts'

imapSessionConformance(
  { describe, it },
  {
    async createBackend() {
      await Promise.resolve()
      return {
        backend: memoryBackend({ users: { ann: 'se"cr\\et' } }),
        user: 'ann',
        password: 'se"cr\\et',
        [Symbol.asyncDispose]: () => Promise.resolve(),
      }
    },
  },
)
