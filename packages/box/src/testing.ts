export { boxConformance, type BoxUnderTest, type Runner } from './lib/conformance.ts'
export { type MemoryProcess, type MemoryTable, memoryTable } from './lib/memory-table.ts'
