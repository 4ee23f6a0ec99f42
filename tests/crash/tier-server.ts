/**
 * `mailstead serve`, with its flags, whose stores are purged, and their mail moved to the second tier, all the while: the
 * configuration knows no less than a minute between two purges.
 */
import { readyLine, type ServeFlags, serveUntilStopped, settingsOf, withServeFlags } from '@mailstead/app-server'
import { Command } from 'commander'

const PURGE_EVERY_MS = 10
const MINUTE_MS = 60_000

const flags = withServeFlags(new Command()).parse(process.argv.slice(3), { from: 'user' }).opts<ServeFlags>()
const settings = settingsOf(flags)
const config = { ...settings.config, purge: { ...settings.config.purge, intervalMinutes: PURGE_EVERY_MS / MINUTE_MS } }
await serveUntilStopped({ ...settings, config }, (server) => {
  process.stdout.write(`${readyLine(server)}\n`)
})
