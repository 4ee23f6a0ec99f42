export { type FaultPlan, type FaultyOperation, faultyFs } from './lib/faulty.ts'
