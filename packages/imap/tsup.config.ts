import { defineConfig } from 'tsup'
import { base } from '../../tsup.config.base.ts'

export default defineConfig({
  ...base,
  entry: ['src/index.ts', 'src/wire.ts', 'src/server.ts', 'src/cache-fields.ts', 'src/testing.ts'],
})
