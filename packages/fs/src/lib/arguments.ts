/**
 * What TypeScript would have refused, refused where it would do harm otherwise: text and lists of numbers have lengths too,
 * and would be stored as other bytes than were meant; an unknown mode would create a file.
 */
import { isUint8Array } from 'node:util/types'
import type { FsOpenMode, FsWriteOptions } from './contract.ts'

/** TypeError unless `bytes` are bytes; a stream of text, say, gives strings. */
export function checkBytes(bytes: Uint8Array): void {
  if (!isUint8Array(bytes)) throw new TypeError(`bytes must be a Uint8Array, not ${typeName(bytes)}`)
}

/** How many bytes `parts` have. TypeError unless they are a list of bytes. */
export function bytesIn(parts: readonly Uint8Array[]): number {
  if (!Array.isArray(parts)) throw new TypeError(`parts must be an array of Uint8Array, not ${typeName(parts)}`)
  let total = 0
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i]!
    if (!isUint8Array(part)) checkBytes(part)
    total += part.length
  }
  return total
}

/** TypeError for anything else than a mode: `r` or `a`, say. */
export function checkMode(mode: FsOpenMode): void {
  if (mode !== 'read' && mode !== 'append' && mode !== 'write' && mode !== 'create')
    throw new TypeError(`mode must be 'read', 'append', 'write' or 'create', not ${String(mode)}`)
}

/** TypeError for a tag that is none: a condition that got lost must not become a write without one. */
export function checkCondition(options: FsWriteOptions): void {
  if ('ifMatch' in options && typeof options.ifMatch !== 'string')
    throw new TypeError(`ifMatch must be a tag, not ${typeName(options.ifMatch)}`)
}

function typeName(value: unknown): string {
  return typeof value === 'object' && value !== null ? value.constructor.name : typeof value
}
