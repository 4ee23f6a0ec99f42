/** The identity of a mailbox's directory as a line for people. */
import { IDENTITY_MAX, readIdentity } from './names.ts'

/** Undefined if these bytes are not meant to be one. */
export function dumpSdboxIdentity(bytes: Uint8Array): string | undefined {
  if (bytes.length > IDENTITY_MAX || !Buffer.from(bytes.subarray(0, 6)).equals(Buffer.from('sdbox '))) return undefined
  const identity = readIdentity(bytes)
  if (identity === undefined) return '0 DAMAGED identity of a mailbox'
  const { guid, uidValidity, removed, name } = identity
  const parts = ['0 identity of a mailbox', `guid ${guid}`, `uidvalidity ${uidValidity}`]
  if (name !== undefined) parts.push(`name ${JSON.stringify(name)}`)
  if (removed) parts.push('removed')
  return parts.join(', ')
}
