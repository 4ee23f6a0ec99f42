export { boxConformance, type BoxUnderTest, type Runner } from './lib/conformance.ts'
export {
  type MemoryMail,
  type MemoryProcess,
  type MemoryTable,
  type MemoryTransaction,
  memoryTable,
} from './lib/memory-table.ts'
