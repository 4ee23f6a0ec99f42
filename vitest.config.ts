import { globSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defaultServerConditions } from 'vite'
import { defineConfig } from 'vitest/config'

// Workspace packages resolve to their TypeScript sources, so tests need no build. `module` is for bundlers: Node, which gets
// these conditions too, cannot load what some packages give for it.
const conditions = ['@mailstead/source', ...defaultServerConditions.filter((condition) => condition !== 'module')]

const guardMs = process.env['MAILSTEAD_DEPTH'] === 'soak' ? 0 : 1_800_000

export default defineConfig({
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    // Every core: much of the time is spent waiting for disks and for the servers that tests start.
    maxWorkers: Math.max(2, availableParallelism()),
    // One generous guard against hangs; no test has a limit of its own, and a soak has none at all.
    testTimeout: guardMs,
    hookTimeout: guardMs,
    setupFiles: [fileURLToPath(new URL('tests/support/fixed-draws.ts', import.meta.url))],
    projects: globSync(['packages/*', 'apps/*', 'tests/*', 'bench', 'tools']).map((root) => ({
      extends: true,
      root,
      test: { name: root, include: ['**/*.test.ts'], execArgv: ['--conditions=@mailstead/source'] },
    })),
  },
})
