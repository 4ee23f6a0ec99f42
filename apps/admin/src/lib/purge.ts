/**
 * `mailstead purge`: gives back the space of messages that nobody has any more, and then that of attachments which no message has had for
 * their grace period, whether or not a server is running. A server does it for the stores that it uses; this is for the others.
 *
 * Exit codes: 0 done, 2 misused, or a store could not be purged.
 */
import { Command } from 'commander'
import { StoreError } from '@mailstead/store'
import { eachStore, graceOf, type StoresFlags, tell } from './each-store.ts'
import { Exit } from './exit.ts'

interface PurgeFlags extends StoresFlags {
  readonly graceHours?: string
  readonly rate?: string
}

const MiB = 1024 * 1024

export function purgeCommand(): Command {
  return new Command('purge')
    .description('give back the space of messages that nobody has any more, then that of attachments')
    .option('--data <dir>', 'data directory')
    .option('--user <name>', 'only this user (default: all)')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file, which says where attachments are')
    .option('--grace-hours <hours>', 'another grace period of attachments than that of the configuration')
    .option('--rate <MiB>', 'copy at most so many MiB per second (default: as fast as it goes)')
    .option('--json', 'what was done as one JSON value')
    .action(purge)
}

async function purge(flags: PurgeFlags): Promise<void> {
  const grace = graceOf(flags.graceHours)
  const rate = flags.rate === undefined ? undefined : Number(flags.rate)
  if (rate !== undefined && !(rate > 0)) throw new Exit(2, `--rate ${flags.rate}: must be a number above 0`)
  const purged: unknown[] = []
  const { failures } = await eachStore(flags, { readOnly: false }, async (user, store) => {
    const { unavailable, ...report } = await store
      .purge(rate === undefined ? {} : { bytesPerSecond: rate * MiB })
      .catch((error: unknown) => {
        if (!(error instanceof StoreError && error.code === 'STORE_INCOMPLETE')) throw error
        throw new Exit(1, `${error.message}: mailstead rebuild --user ${user}`)
      })
    const swept = await store.sweepAttachments(grace)
    const waiting = await store.unpurged()
    purged.push({ user, ...report, waiting, attachments: swept?.blobs ?? 0, attachmentBytes: swept?.bytes ?? 0 })
    if (flags.json !== true) {
      const { messages, bytesReclaimed } = report
      const attachments = swept === undefined ? '' : `, ${swept.blobs} attachments (${swept.bytes} bytes)`
      const wait = waiting === 0 ? '' : `; ${waiting} messages wait until more of their files is dead`
      process.stdout.write(`${user}: ${messages} messages (${bytesReclaimed} bytes)${attachments} given back${wait}\n`)
    }
    if (unavailable !== undefined) throw unavailable
  })
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ purged, failures })}\n`)
  tell(failures)
}
