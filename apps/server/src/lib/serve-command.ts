/** The flags of `serve`, for the command and for `npm start`. */
import { Command } from 'commander'
import { serveUntilStopped, readyLine } from './serve.ts'
import { type ServeFlags, settingsOf } from './settings.ts'

/** Declares the flags. What is not given is taken from the configuration. */
export function withServeFlags(command: Command): Command {
  return command
    .option('--data <dir>', 'data directory')
    .option('--users <file>', 'users file (default: users.passwd in the data directory)')
    .option('--imap <host:port>', 'listen for IMAP; port 0 takes a free one')
    .option('--imaps <host:port>', 'listen for IMAP over TLS')
    .option('--lmtp <host:port>', 'listen for LMTP')
    .option('--cert <file>', 'certificate chain, PEM')
    .option('--key <file>', 'private key, PEM')
    .option('--state <dir>', 'directory of what is known of mounts (default: STATE_DIRECTORY of the environment)')
    .option('--config <file>', 'configuration file (TOML)')
    .option('--init', 'mark the data directory, and create it and the users file, if they are not there')
    .option('--log-level <level>', 'trace, debug, info, warn, error or silent')
}

/** `mailstead serve`. */
export function serveCommand(): Command {
  return withServeFlags(new Command('serve'))
    .description('serve mail: IMAP to clients, LMTP from the mail transport')
    .action(async (flags: ServeFlags) => {
      await serveUntilStopped(settingsOf(flags), (server) => {
        process.stdout.write(`${readyLine(server)}\n`)
      })
    })
}
