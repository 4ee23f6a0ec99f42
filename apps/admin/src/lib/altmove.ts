/**
 * `mailstead altmove`: moves mail to the second tier, or back, whether or not a server is running.
 *
 * Exit codes: 0 moved (also if there was nothing to move), 1 failed, or messages are damaged and stay where they are, 2 misused.
 */
import { Command } from 'commander'
import { openUserStore } from '@mailstead/app-server'
import { parseAltmoveQuery, StoreError } from '@mailstead/store'
import { Exit } from './exit.ts'
import { mustFindUser, whereOf, type WhereFlags } from './find-user.ts'

interface AltmoveFlags extends WhereFlags {
  readonly user: string
  readonly back?: boolean
  readonly rate?: string
  readonly json?: boolean
}

const MiB = 1024 * 1024

export function altmoveCommand(): Command {
  return new Command('altmove')
    .description('move mail to the second tier ([alternate] in the configuration), or back')
    .argument(
      '[query...]',
      'which mail, such as: older 90d larger 100k not flagged (default: that of the configuration)',
    )
    .requiredOption('--user <name>', 'whose mail')
    .option('--back', 'from the second tier to the first')
    .option('--rate <MiB>', 'at most so many MiB per second (default: as fast as it goes)')
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--config <file>', 'configuration file, which says where the second tier is')
    .option('--json', 'what was done as one JSON value')
    .action(async (words: readonly string[], flags: AltmoveFlags) => {
      const where = whereOf(flags)
      const { alternate } = where.config
      if (alternate === undefined) throw new Exit(2, 'there is no second tier: give --config FILE with [alternate]')
      const query = words.length > 0 ? parseAltmoveQuery(words) : alternate.query
      if (query === undefined) throw new Exit(2, 'say which mail; for all of it: mailstead altmove --user NAME all')
      if (typeof query === 'string') throw new Exit(2, `the query: ${query}`)
      const rate = flags.rate === undefined ? undefined : Number(flags.rate)
      if (rate !== undefined && !(rate > 0)) throw new Exit(2, `--rate ${flags.rate}: must be a number above 0`)
      const user = mustFindUser(where, flags.user)
      await using opened = await openUserStore(where.data, user, { settings: where.config })
      if (!opened.store.hasTiers) throw new Exit(2, `the store of ${user.name} is in a format that has no second tier`)
      const report = await opened.store
        .altmove({
          to: flags.back === true ? 'primary' : 'alt',
          where: query.at(Date.now()),
          ...(rate === undefined ? {} : { bytesPerSecond: rate * MiB }),
        })
        .catch((error: unknown) => {
          if (!(error instanceof StoreError && error.code === 'STORE_INCOMPLETE')) throw error
          throw new Exit(1, `${user.name}: ${error.message}: mailstead rebuild --user ${user.name}`)
        })
      const { messages, bytes, damaged, bytesReclaimed } = report
      if (flags.json === true) process.stdout.write(`${JSON.stringify({ user: user.name, ...report })}\n`)
      else
        process.stdout.write(
          `${messages} messages moved (${bytes} bytes), ${damaged} damaged, ${bytesReclaimed} bytes given back\n`,
        )
      if (damaged > 0) throw new Exit(1)
    })
}
