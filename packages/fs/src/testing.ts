export { type FsUnderTest, fsConformance, type Runner } from './lib/conformance.ts'
export { type FaultPlan, type FaultyOperation, faultyFs } from './lib/faulty.ts'
