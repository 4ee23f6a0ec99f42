/** What `serve` is to do: flags, then configuration, then defaults. */
import { join, resolve } from 'node:path'
import { type Config, ConfigError, emptyConfig, type Listen, parseListen, readConfig } from './config.ts'
import { USERS_FILE } from './data-directory.ts'

export interface ServeFlags {
  readonly data?: string
  readonly users?: string
  readonly imap?: string
  readonly imaps?: string
  readonly lmtp?: string
  readonly cert?: string
  readonly key?: string
  readonly config?: string
  readonly init?: boolean
  readonly state?: string
  readonly logLevel?: string
}

export interface Settings {
  readonly data: string
  readonly users: string
  /** Where the list of mounts is kept; undefined: in memory. */
  readonly state: string | undefined
  readonly imap: Listen | undefined
  readonly imaps: Listen | undefined
  readonly lmtp: Listen | undefined
  readonly tls: { readonly cert: string; readonly key: string } | undefined
  readonly init: boolean
  readonly config: Config
}

/** ConfigError says which flag or key is wrong, or missing. */
export function settingsOf(flags: ServeFlags, defaults: ServeFlags = {}): Settings {
  const config = flags.config === undefined ? emptyConfig : readConfig(flags.config)
  const level = flags.logLevel
  if (level !== undefined && !/^(?:trace|debug|info|warn|error|silent)$/.test(level))
    throw new ConfigError(`--log-level ${level}: must be trace, debug, info, warn, error or silent`)
  const data = flags.data ?? config.data ?? defaults.data
  if (data === undefined) throw new ConfigError('no data directory: give --data DIR, or `data` in the configuration')
  const imap = listen('--imap', flags.imap) ?? config.imap ?? listen('--imap', defaults.imap)
  const imaps = listen('--imaps', flags.imaps) ?? config.imaps
  const lmtp = listen('--lmtp', flags.lmtp) ?? config.lmtp ?? listen('--lmtp', defaults.lmtp)
  if (imap === undefined && imaps === undefined && lmtp === undefined)
    throw new ConfigError('nothing to listen on: give --imap HOST:PORT, --imaps HOST:PORT or --lmtp HOST:PORT')
  if ((flags.cert === undefined) !== (flags.key === undefined))
    throw new ConfigError('--cert and --key are given together or not at all')
  const tls = flags.cert !== undefined && flags.key !== undefined ? { cert: flags.cert, key: flags.key } : config.tls
  if (imaps !== undefined && tls === undefined)
    throw new ConfigError('--imaps needs a certificate: give --cert FILE --key FILE, or [tls] in the configuration')
  return {
    data: resolve(data),
    users: resolve(flags.users ?? config.users ?? join(data, USERS_FILE)),
    state: stateDirectory(flags.state, config),
    imap,
    imaps,
    lmtp,
    tls,
    init: flags.init ?? defaults.init ?? false,
    config: level === undefined ? config : { ...config, logLevel: level as Config['logLevel'] },
  }
}

/** What systemd made for the service counts where nothing else is said. */
export function stateDirectory(flag: string | undefined, config: Config): string | undefined {
  const named = flag ?? config.state ?? process.env['STATE_DIRECTORY']?.split(':')[0]
  return named === undefined || named === '' ? undefined : resolve(named)
}

function listen(flag: string, value: string | undefined): Listen | undefined {
  if (value === undefined) return undefined
  const parsed = parseListen(value)
  if (typeof parsed === 'string') throw new ConfigError(`${flag}: ${parsed}`)
  return parsed
}
