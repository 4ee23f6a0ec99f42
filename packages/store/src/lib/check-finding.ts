/** What the passes of a check share. */
import type { StoreFinding } from './contract.ts'
import { StoreError } from './error.ts'
import { storeError } from './failure.ts'

/** Findings of one page. */
export const PAGE = 256
/** What passes tell each other. */
export interface Seen {
  /** Storage that was away when something in it was looked at. */
  outage: unknown
  /** Of messages that were read, by reference: how those are put together of which parts lie elsewhere. */
  readonly segments: Map<number, Uint8Array | undefined>
  /** Some blob is missing or damaged: whose parts those are is told too, for which they are all read. */
  brokenBlobs: boolean
}

export function isOutage(error: unknown): boolean {
  const named = storeError(error)
  return named instanceof StoreError && named.code === 'STORE_UNAVAILABLE'
}

export function finding(kind: string, message: string, details: Partial<StoreFinding> = {}): StoreFinding {
  return {
    severity: 'damage',
    kind,
    file: undefined,
    offset: undefined,
    mailbox: undefined,
    uid: undefined,
    message,
    ...details,
  }
}
