export type {
  CrashableFs,
  CrashImage,
  CrashModel,
  CrashPosition,
  CrashProfile,
  CrashState,
  StatesOptions,
} from './lib/crash-types.ts'
export { type FaultPlan, type FaultyOperation, faultyFs } from './lib/faulty.ts'
export type { Trace, TraceEntry, TraceOperation } from './lib/trace.ts'
