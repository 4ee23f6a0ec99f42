/** The command line: parses it, runs the command, and turns failures into one sentence and an exit code. */
import { createRequire } from 'node:module'
import { Command, CommanderError } from 'commander'
import { ConfigError, serveCommand } from '@mailstead/app-server'
import { aclCommand, shareCommand } from './acl.ts'
import { altmoveCommand } from './altmove.ts'
import { attachmentsCommand } from './attachments.ts'
import { checkCommand } from './check.ts'
import { deliverCommand } from './deliver.ts'
import { dumpCommand } from './dump.ts'
import { Exit } from './exit.ts'
import { importCommand } from './import.ts'
import { initCommand } from './init.ts'
import { mailboxCommand } from './mailbox.ts'
import { mountCommand } from './mount.ts'
import { privateCommand } from './private-flags.ts'
import { purgeCommand } from './purge.ts'
import { rebuildCommand } from './rebuild.ts'
import { repairCommand } from './repair.ts'
import { userCommand } from './user.ts'

// By name, because the sources and what is built of them are not equally far from the file.
const { version } = createRequire(import.meta.url)('mailstead/package.json') as { readonly version: string }

/** Exit codes: 0 done, 1 failed (`check`: findings; `repair`, `rebuild`: something was to be done; `import`: not everything came), 2 misused or could not look. */
export async function run(argv: readonly string[]): Promise<number> {
  const program = new Command('mailstead')
    .description('Mailstead: mail storage, and an IMAP and LMTP server over it')
    .version(version)
    .exitOverride()
    .addCommand(initCommand())
    .addCommand(serveCommand())
    .addCommand(userCommand())
    .addCommand(deliverCommand())
    .addCommand(mailboxCommand())
    .addCommand(importCommand())
    .addCommand(altmoveCommand())
    .addCommand(purgeCommand())
    .addCommand(mountCommand())
    .addCommand(aclCommand())
    .addCommand(shareCommand())
    .addCommand(privateCommand())
    .addCommand(attachmentsCommand())
    .addCommand(checkCommand())
    .addCommand(repairCommand())
    .addCommand(rebuildCommand())
    .addCommand(dumpCommand())
  for (const command of everyCommand(program)) command.exitOverride()
  try {
    await program.parseAsync([...argv], { from: 'user' })
    return 0
  } catch (error) {
    if (error instanceof Exit) {
      if (error.message !== '') process.stderr.write(`mailstead: ${error.message}\n`)
      return error.code
    }
    // commander has said what is wrong.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    if (error instanceof ConfigError) {
      process.stderr.write(`mailstead: ${error.message}\n`)
      return 2
    }
    if (error instanceof Error && 'code' in error) {
      process.stderr.write(`mailstead: ${error.message}\n`)
      return 1
    }
    throw error
  }
}

function* everyCommand(command: Command): Generator<Command> {
  for (const each of command.commands) {
    yield each
    yield* everyCommand(each)
  }
}
