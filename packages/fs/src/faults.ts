export type {
  CrashableFs,
  CrashImage,
  CrashModel,
  CrashPosition,
  CrashProfile,
  CrashState,
  StatesOptions,
} from './lib/crash-types.ts'
export {
  type AfterCrashOptions,
  type CrashableFsOptions,
  crashableFs,
  type FlushOperation,
  imageOf,
} from './lib/crashable.ts'
export {
  everyFault,
  type FaultRule,
  type Firing,
  failNth,
  faultPlan,
  type PlannedFaults,
  readOnlyFrom,
} from './lib/fault-plan.ts'
export { type Fault, type FaultPlan, type FaultyOperation, faultyFs } from './lib/faulty.ts'
export { type RecordedFs, type RecordOptions, recordedFs } from './lib/recorded.ts'
export { type CrashModelOptions, crashModelOf, type Replayed, replay } from './lib/replay.ts'
export { formatTrace, parseTrace, printTrace, type Trace, type TraceEntry, type TraceOperation } from './lib/trace.ts'
