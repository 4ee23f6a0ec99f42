import { defineConfig } from 'tsup'
import { base } from '../../tsup.config.base.ts'

export default defineConfig({
  ...base,
  entry: [
    'src/index.ts',
    'src/posix.ts',
    'src/memory.ts',
    'src/s3.ts',
    'src/wrappers.ts',
    'src/faults.ts',
    'src/testing.ts',
  ],
})
