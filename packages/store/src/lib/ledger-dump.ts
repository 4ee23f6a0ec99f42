/** A ledger of mailboxes as lines for people. */
import { AclError, decodeAcl } from '@mailstead/acl'
import { formatAclFile } from '@mailstead/acl/file'
import { decodePrivacyPolicy, formatPrivacyPolicy } from '@mailstead/acl/private-flags'
import { toHex } from '@mailstead/bytes'
import { GONE, GONE_LISTED } from './ledger.ts'
import { decodeLedger, isLedger, type LedgerState } from './ledger-format.ts'
import { aclKey, closedKey, decodeEntry, decodeNumber, guidOfKey, KEY_VALIDITY, privacyKey } from './tree.ts'

/** One line for the file, and for each mailbox, its list, its policy and each link. Undefined: these bytes are no ledger. */
export function dumpLedger(bytes: Uint8Array): readonly string[] | undefined {
  if (!isLedger(bytes)) return undefined
  const state = decodeLedger(bytes)
  if (state === undefined) return ['0 DAMAGED ledger of mailboxes']
  const { values, version, links } = state
  const lines = [
    `0 ledger of mailboxes, tree version ${version}, UIDVALIDITY to ${decodeNumber(values.get(KEY_VALIDITY))}`,
  ]
  lines.push(...settingsOf(state, '', 'the store'))
  const names = new Map([
    [GONE, 'a mailbox that is gone'],
    [GONE_LISTED, 'a mailbox that is gone and had a list'],
  ])
  for (const [key, value] of values) {
    const guid = guidOfKey(key)
    if (guid === undefined) continue
    const entry = decodeEntry(guid, value)
    if (entry === undefined) {
      lines.push(`DAMAGED ${key}: ${toHex(value)}`)
      continue
    }
    const name = JSON.stringify(entry.name)
    names.set(guid, name)
    lines.push(`mailbox ${name}, guid ${guid}, UIDVALIDITY ${entry.uidValidity}`, ...settingsOf(state, guid, name))
  }
  if (links === undefined) lines.push('where messages went is not known')
  for (const [from, tos] of links ?? [])
    for (const to of tos) lines.push(`messages went from ${names.get(from) ?? from} to ${names.get(to) ?? to}`)
  return lines
}

function settingsOf({ values }: LedgerState, guid: string, name: string): string[] {
  const lines: string[] = []
  const acl = values.get(aclKey(guid))
  if (acl !== undefined) lines.push(...entriesOf(acl).map((entry) => `list of ${name}: ${entry}`))
  if (values.has(closedKey(guid))) lines.push(`${name} is closed to all but the owner`)
  const privacy = values.get(privacyKey(guid))
  const policy = privacy === undefined ? undefined : decodePrivacyPolicy(privacy)
  if (policy !== undefined)
    lines.push(
      `private flags of ${name}: ${'fault' in policy ? `DAMAGED ${policy.fault}` : formatPrivacyPolicy(policy)}`,
    )
  return lines
}

function entriesOf(value: Uint8Array): string[] {
  try {
    const text = Buffer.from(formatAclFile(decodeAcl(value)))
      .toString()
      .trimEnd()
    return text === '' ? ['nobody is in it'] : text.split('\n')
  } catch (error) {
    if (error instanceof AclError) return [`DAMAGED ${error.message}`]
    throw error
  }
}
