/** Plans for `faultyFs`, as a few rules, which know whether they came to pass. */
import type { Fault, FaultPlan, FaultyOperation } from './faulty.ts'
import { FS_OPERATIONS } from './operations.ts'

export interface FaultRule {
  /** (default: every operation) */
  readonly operation?: FaultyOperation | readonly FaultyOperation[]
  /** The whole path, or what it must match. (default: every path) */
  readonly path?: string | RegExp
  /** Only operations that need a storage which can be written to. (default false) */
  readonly writing?: boolean
  /** Which of the operations that match, on whatever path; from 1. (default 1) */
  readonly nth?: number
  /** How many from there on; `Infinity` for a failure that stays. (default 1) */
  readonly times?: number
  readonly fault: Fault
}

export interface Firing {
  readonly operation: FaultyOperation
  readonly path: string
  readonly fault: Fault
}

/** A plan that counts. */
export interface PlannedFaults extends FaultPlan {
  /** Operations that were asked about and matched some rule, whether it was their turn or not. */
  readonly matched: number
  /** Faults that happened, in order: a test whose list is empty has tested nothing. */
  readonly fired: readonly Firing[]
}

const FAULTY: ReadonlySet<string> = new Set(FS_OPERATIONS.filter((name) => !name.endsWith('Sync')))
/** Most faults of one `everyFault`: a run that never ends must not run for ever. */
const EVERY_FAULT_MAX = 100_000

/** The first rule whose turn it is decides. TypeError for an operation that there is not: its fault would never come to pass. */
export function faultPlan(...rules: readonly FaultRule[]): PlannedFaults {
  const counts = rules.map(() => 0)
  const fired: Firing[] = []
  let matched = 0
  for (const { nth = 1, times = 1, operation = [] } of rules) {
    for (const name of typeof operation === 'string' ? [operation] : operation)
      if (!FAULTY.has(name)) throw new TypeError(`no operation ${name}`)
    if (!(nth >= 1 && times >= 1)) throw new RangeError(`a fault is the 1st or later, not ${nth}, ${times} times`)
  }
  return {
    fired,
    get matched() {
      return matched
    },
    fail(operation, path, _nth, writes) {
      let decided: Fault | undefined
      let matches = false
      for (const [at, rule] of rules.entries()) {
        if (!appliesTo(rule, operation, path, writes)) continue
        matches = true
        const count = ++counts[at]!
        const { nth = 1, times = 1, fault } = rule
        if (decided === undefined && count >= nth && count < nth + times) decided = fault
      }
      if (matches) matched++
      if (decided !== undefined) fired.push({ operation, path, fault: decided })
      return decided
    },
  }
}

/** One operation fails, once. */
export function failNth(rule: Omit<FaultRule, 'times'>): PlannedFaults {
  return faultPlan(rule)
}

/** From the `nth` operation that needs to write on, every one of them is FS_READ_ONLY. */
export function readOnlyFrom(nth: number, path?: string | RegExp): PlannedFaults {
  const times = Number.POSITIVE_INFINITY
  return faultPlan({ writing: true, nth, times, fault: 'EROFS', ...(path === undefined ? {} : { path }) })
}

/**
 * Calls `run` with a plan that fails the first operation which `rule` matches, then the second, and so on, until one run
 * has no such operation any more. Resolves to the number of faults that happened.
 */
export async function everyFault(
  rule: Omit<FaultRule, 'nth'>,
  run: (plan: PlannedFaults, nth: number) => Promise<void>,
): Promise<number> {
  for (let nth = 1; nth <= EVERY_FAULT_MAX; nth++) {
    const plan = faultPlan({ ...rule, nth })
    await run(plan, nth)
    if (plan.fired.length === 0) return nth - 1
  }
  throw new RangeError(`more than ${EVERY_FAULT_MAX} faults`)
}

function appliesTo(rule: FaultRule, operation: FaultyOperation, path: string, writes: boolean): boolean {
  const { operation: wanted, path: where, writing = false } = rule
  if (writing && !writes) return false
  if (wanted !== undefined && (typeof wanted === 'string' ? wanted !== operation : !wanted.includes(operation)))
    return false
  return where === undefined || (typeof where === 'string' ? where === path : path.search(where) >= 0)
}
