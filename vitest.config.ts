import { globSync } from 'node:fs'
import { defaultServerConditions } from 'vite'
import { defineConfig } from 'vitest/config'

// Workspace packages resolve to their TypeScript sources, so tests need no build.
const conditions = ['@mailstead/source', ...defaultServerConditions]

export default defineConfig({
  ssr: { resolve: { conditions, externalConditions: conditions } },
  test: {
    // One generous guard against hangs; no test has a limit of its own.
    testTimeout: 600_000,
    hookTimeout: 600_000,
    projects: globSync(['packages/*', 'apps/*', 'tests/*', 'bench', 'tools']).map((root) => ({
      extends: true,
      root,
      test: { name: root, include: ['**/*.test.ts'], execArgv: ['--conditions=@mailstead/source'] },
    })),
  },
})
