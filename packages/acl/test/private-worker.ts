/**
 * A process of one user that changes his private flags until it is killed, for tests. Arguments: directory, lane, lanes, messages.
 *
 * Prints a line for each change that was acknowledged, with what its sessions show then: UID, flags that the user wanted, and the client
 * that goes away with it: HIGHESTMODSEQ and the flags of all messages in order of their UIDs.
 */
import { writeSync } from 'node:fs'
import { posixFs } from '@mailstead/fs/posix'
import { UidSet } from '@mailstead/uidset'
import { openHandle } from './private-world.ts'

const [directory, lane, lanes, messages] = process.argv.slice(2) as [string, string, string, string]
const fs = await posixFs(directory)
const policy = { default: 'shared' as const, rules: [{ pattern: '\\Seen', class: 'private' as const }] }
const ann = await openHandle({ user: 'ann', sharedFs: fs, ownFs: fs, policy })
for (let turn = 0; ; turn++) {
  // Each process has messages of its own, so that what was wanted last is known.
  const uid = 1 + Number(lane) + Number(lanes) * (turn % Math.floor(Number(messages) / Number(lanes)))
  const isSeen = Math.floor(turn / 7) % 3 !== 1
  await ann.overlay.changeFlags(UidSet.of(uid), isSeen ? { add: 8 } : { remove: 8 })
  await ann.overlay.refresh()
  const { view } = ann.overlay
  let flags = ''
  for (let row = 0; row < view.count; row++) flags += String.fromCharCode(65 + view.flags(row))
  writeSync(1, `${uid} ${isSeen ? 8 : 0} ${view.highestModSeq} ${flags}\n`)
}
