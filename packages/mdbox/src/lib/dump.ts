/** A message file as lines for people. Shares the walk with scan and check, so that it cannot drift from them. */
import { toHex } from '@mailstead/bytes'
import { hex8 } from './format.ts'
import { driveBytes, type Walked, type WalkedLine, walkFile } from './walk.ts'

/** One line for the first line of the file, one for each message or stretch of damage. */
export function* dumpMdboxFile(bytes: Uint8Array): Generator<string, void, undefined> {
  for (const found of driveBytes<Walked | WalkedLine>(bytes, walkFile(bytes.length)))
    yield 'line' in found ? firstLine(found) : record(found)
}

function firstLine({ createdMs, verified, length, damage }: WalkedLine): string {
  if (damage !== undefined) return `0 DAMAGED ${damage}`
  return `0 dbox v2, created ${date(createdMs)}, ${length} bytes, ${verified ? 'checksum fits' : 'no checksum'}`
}

function record(found: Walked): string {
  const { offset, length, physicalSize, storedSize, size, guid, receivedMs, mailbox, sum, checksummed, damage } = found
  if (guid === undefined) return `${offset} DAMAGED ${length} bytes: ${damage ?? ''}`
  const parts = [
    `${offset} message of ${length} bytes`,
    `body ${physicalSize}${size === physicalSize ? ' canonical' : ` (${size} with CRLF)`}${storedSize === physicalSize ? '' : ` stored in ${storedSize}`}`,
    `guid ${toHex(guid)}`,
    `received ${date(receivedMs)}`,
  ]
  if (mailbox !== undefined) parts.push(`mailbox ${JSON.stringify(mailbox)}`)
  parts.push(checksummed ? `sum ${hex8(sum)}` : 'no checksum')
  if (damage !== undefined) parts.push(`DAMAGED ${damage}`)
  return parts.join(', ')
}

function date(ms: number): string {
  return Math.abs(ms) <= 8.64e15 ? new Date(ms).toISOString() : `${ms} ms`
}
