export { type MemoryFsOptions, memoryFs } from './lib/memory.ts'
