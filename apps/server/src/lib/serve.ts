/** `mailstead serve`: settings, then a server over posix and mdbox, until a signal. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { type MailServer, type PurgeBudget, ServerError, startServer, usersFile } from '@mailstead/server'
import { makeAttachmentsBelow } from './attachments-root.ts'
import { formatListen, type Listen } from './config.ts'
import { checkDataDirectory, initDataDirectory, userStorage } from './data-directory.ts'
import { eventLog, serverLog } from './log.ts'
import { guardOfFile, mustBeMounted, startMounts } from './mounts.ts'
import { checkRootDirectory } from './roots.ts'
import type { Settings } from './settings.ts'
import { sharedMail } from './shared-mail.ts'

/** Starts the server. Everything that can be wrong with the settings is found before anything listens. */
export async function startFromSettings(settings: Settings): Promise<MailServer> {
  const { data, config } = settings
  const onEvent = eventLog(serverLog(config.logLevel))
  await using held = new AsyncDisposableStack()
  const roots = [data, config.index?.path, config.alternate?.path, config.attachments.path]
  const mounts = held.use(
    await startMounts(
      settings.state,
      roots.filter((root) => root !== undefined),
      onEvent,
    ),
  )
  if (settings.init) {
    await mustBeMounted(data, mounts)
    await initDataDirectory(data, mounts)
  }
  const uuid = await checkDataDirectory(data, mounts)
  // A data directory of before there were attachments gets the directory for them now.
  if (config.attachments.path === undefined) await makeAttachmentsBelow({ data, mounts })
  await mounts.roots?.learn(data, 'data', uuid)
  if (config.index !== undefined) {
    const index = await checkRootDirectory(config.index.path, 'index', mounts)
    await mounts.roots?.learn(config.index.path, 'index', index)
  }
  const guard = held.use(guardOfFile(settings.users, { path: data, role: 'data', uuid }, mounts))
  await guard.check('')
  if (settings.init && !existsSync(settings.users)) writeFileSync(settings.users, '', { flag: 'wx', mode: 0o600 })
  const users = usersFile(settings.users, { onEvent, storage: () => guard.check('') })
  const { imapSettings, lmtpSettings, store } = config
  const shared = held.use(await sharedMail(data, config, { users: () => users.all(), mounts, onEvent }))
  const server = await startServer({
    users,
    storage: (user) => userStorage(data, user, { settings: config, create: true, mounts }),
    onEvent,
    ...defined({
      imap: settings.imap,
      imaps: settings.imaps,
      lmtp: settings.lmtp,
      tls: settings.tls === undefined ? undefined : tlsFiles(settings.tls),
      hostname: config.hostname,
      shared: shared.options,
      flags: store.flags,
      messageMax: store.messageBytes,
      storeIdleMs: times(store.idleSeconds, 1000),
      storesOpenMax: store.open,
      purgeEveryMs: times(config.purge.intervalMinutes, 60_000),
      purgeBudget: purgeBudget(config.purge),
      altmove: config.alternate?.query,
      imapConnectionsMax: imapSettings.connections,
      plaintextLogin: imapSettings.plaintextLogin,
      imapLimits: defined({
        idleTimeoutMs: times(imapSettings.idleMinutes, 60_000),
        preAuthTimeoutMs: times(imapSettings.loginSeconds, 1000),
      }),
      lmtpConnectionsMax: lmtpSettings.connections,
      lmtpIdleMs: times(lmtpSettings.idleSeconds, 1000),
      recipientsMax: lmtpSettings.recipients,
      separator: lmtpSettings.separator,
      returnPath: lmtpSettings.returnPath,
    }),
  })
  held.use(server)
  const all = held.move()
  return { ...server, [Symbol.asyncDispose]: () => all.disposeAsync() }
}

/** `ready imap=HOST:PORT lmtp=HOST:PORT`: what whoever started the server waits for. */
export function readyLine(server: MailServer): string {
  const parts: string[] = []
  const names: readonly ['imap' | 'imaps' | 'lmtp', Listen | undefined][] = [
    ['imap', server.imap],
    ['imaps', server.imaps],
    ['lmtp', server.lmtp],
  ]
  for (const [name, at] of names) if (at !== undefined) parts.push(`${name}=${formatListen(at)}`)
  return `ready ${parts.join(' ')}`
}

/** Resolves once a signal asks to stop. A second signal ends the process at once. */
export function stopSignal(): Promise<NodeJS.Signals> {
  const { promise, resolve } = Promise.withResolvers<NodeJS.Signals>()
  let asked = false
  for (const signal of ['SIGTERM', 'SIGINT'] as const)
    process.on(signal, () => {
      if (asked) process.exit(1)
      asked = true
      resolve(signal)
    })
  return promise
}

/** Serves until SIGTERM or SIGINT, then stops cleanly. `started` is called once everything listens. */
export async function serveUntilStopped(
  settings: Settings,
  started: (server: MailServer) => void | Promise<void>,
): Promise<void> {
  const stop = stopSignal()
  await using server = await startFromSettings(settings)
  await started(server)
  await stop
}

function tlsFiles(tls: { readonly cert: string; readonly key: string }): { cert: Buffer; key: Buffer } {
  try {
    return { cert: readFileSync(tls.cert), key: readFileSync(tls.key) }
  } catch (error) {
    throw new ServerError('SERVER_TLS', `the certificate cannot be read: ${(error as Error).message}`, { cause: error })
  }
}

/** What is not said of it is the server's default. */
function purgeBudget({ copyBytes, bytesPerSecond }: Settings['config']['purge']): PurgeBudget | undefined {
  if (copyBytes === undefined && bytesPerSecond === undefined) return undefined
  return defined({ copyMaxBytes: copyBytes, bytesPerSecond })
}

function times(value: number | undefined, by: number): number | undefined {
  return value === undefined ? undefined : value * by
}

/** Without the keys whose value is undefined. */
function defined<T extends object>(object: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
  }
}
