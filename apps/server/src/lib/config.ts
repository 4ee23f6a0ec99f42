/**
 * The configuration: a small TOML file, and flags that override it.
 *
 * Every key is optional, every unknown key is refused by name, and each complaint names the file and the key. See
 * docs/configuration.md, which lists them all.
 */
import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { parse, TomlError } from 'smol-toml'
import * as v from 'valibot'
import type { AclList } from '@mailstead/acl'
import { parseAclFile } from '@mailstead/acl/file'
import { badNamespace, userDirectory } from '@mailstead/server'
import { type AltmoveQuery, parseAltmoveQuery } from '@mailstead/store'

export interface Listen {
  readonly host: string
  readonly port: number
}

/** Many messages to a file, or one. */
export type BoxName = 'mdbox' | 'sdbox'

/** Whose equal attachments are kept once: one user's, those of a tenant, everybody's. */
export type AttachmentDomain = 'store' | 'tenant' | 'server'

export interface AttachmentSettings {
  /** Take parts out of messages that come in. What was taken out is read in any case. */
  readonly enabled: boolean
  /** Where they are; undefined: below the data directory. */
  readonly path: string | undefined
  readonly minBytes: number | undefined
  /** Of stores that have none yet. */
  readonly domain: AttachmentDomain
  /** Names of tenants, by what follows the @ in names of users; where there is none, that is the tenant. */
  readonly tenants: ReadonlyMap<string, string>
  readonly graceHours: number | undefined
}

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'silent'

export interface Config {
  /** Directory of the mail; must hold a root marker. */
  readonly data: string | undefined
  readonly users: string | undefined
  /** Where the list of mounts is kept. */
  readonly state: string | undefined
  readonly hostname: string | undefined
  readonly imap: Listen | undefined
  readonly imaps: Listen | undefined
  readonly lmtp: Listen | undefined
  readonly tls: { readonly cert: string; readonly key: string } | undefined
  readonly imapSettings: {
    readonly connections: number | undefined
    readonly idleMinutes: number | undefined
    readonly loginSeconds: number | undefined
    readonly plaintextLogin: boolean | undefined
  }
  readonly lmtpSettings: {
    readonly connections: number | undefined
    readonly recipients: number | undefined
    readonly separator: string | undefined
    readonly returnPath: boolean | undefined
    readonly idleSeconds: number | undefined
  }
  readonly store: {
    readonly flags: 'flushed' | 'lazy' | undefined
    readonly messageBytes: number | undefined
    readonly idleSeconds: number | undefined
    readonly open: number | undefined
    /** What new stores keep their messages in. */
    readonly box: BoxName | undefined
    readonly compression: 'off' | 'auto' | number | undefined
  }
  readonly purge: {
    readonly intervalMinutes: number | undefined
    readonly copyBytes: number | undefined
    readonly bytesPerSecond: number | undefined
  }
  /** A root of their own for indexes. */
  readonly index: { readonly path: string } | undefined
  /** The second tier, and what goes there by itself. */
  readonly alternate: { readonly path: string; readonly query: AltmoveQuery | undefined } | undefined
  readonly attachments: AttachmentSettings
  /** Access control lists, and what is shared by them. Undefined: each user has all of his own, and nothing else. */
  readonly acl:
    | {
        readonly anyone: boolean
        readonly defaultsFromInbox: boolean
        /** The global file. */
        readonly global: string | undefined
      }
    | undefined
  readonly namespaces: readonly NamespaceConfig[]
  readonly logLevel: LogLevel | undefined
}

/** Mail beside the users' own mailboxes. */
export type NamespaceConfig =
  | { readonly kind: 'shared'; readonly prefix: string }
  | {
      readonly kind: 'public'
      readonly prefix: string
      /** Where its store is, below the data directory. */
      readonly home: string
      readonly box: BoxName | undefined
      readonly compression: 'off' | 'auto' | number | undefined
      /** For mailboxes whose lists say nothing of somebody, if the store has no such list itself. */
      readonly defaults: AclList | undefined
    }

/** What is wrong with the configuration, in a sentence for whoever wrote it. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

const count = v.pipe(
  v.number('must be a number'),
  v.integer('must be a whole number'),
  v.minValue(1, 'must be at least 1'),
)
const text = v.pipe(v.string('must be a string'), v.minLength(1, 'must not be empty'))
const flag = v.boolean('must be true or false')
const address = v.pipe(
  text,
  v.rawTransform<string, Listen>(({ dataset, addIssue, NEVER }) => {
    const parsed = parseListen(dataset.value)
    if (typeof parsed !== 'string') return parsed
    addIssue({ message: parsed })
    return NEVER
  }),
)

const query = v.pipe(
  text,
  v.rawTransform<string, AltmoveQuery>(({ dataset, addIssue, NEVER }) => {
    const parsed = parseAltmoveQuery(dataset.value)
    if (typeof parsed !== 'string') return parsed
    addIssue({ message: parsed })
    return NEVER
  }),
)
/** Levels of zstd. */
const level = v.pipe(count, v.maxValue(19, 'must be at most 19'))

/** As the store of attachments has it, so that what is too much is said before anything listens. */
const MIN_BYTES_MAX: number = 16 * 1024 * 1024

const box = v.picklist(['mdbox', 'sdbox'], 'must be "mdbox" or "sdbox"')
const compression = v.union([v.picklist(['off', 'auto']), level], 'must be "off", "auto" or a level of 1 to 19')
/** A directory below the data directory. */
const below = v.pipe(
  text,
  v.check(
    (path) =>
      !path.split('/').some((part) => part === '' || part === '.' || part === '..') &&
      !/^(?:users|attachments|sharing)(?:\/|$)|[\0\\]/.test(path),
    'must be a directory below the data directory, and not one of those that the server has there',
  ),
)
/** Lines of an access control list. */
const aclLines = v.pipe(
  v.array(text, 'must be a list of lines like "user=bob lrs"'),
  v.rawTransform<string[], AclList>(({ dataset, addIssue, NEVER }) => {
    const { list, findings } = parseAclFile(Buffer.from(dataset.value.join('\n')), 'default_acl')
    if (findings.length === 0) return list
    addIssue({ message: findings.map(({ text: line, problem }) => `${JSON.stringify(line)}: ${problem}`).join('; ') })
    return NEVER
  }),
)
const namespace = v.variant(
  'kind',
  [
    v.strictObject({ kind: v.literal('shared'), prefix: text }),
    v.strictObject({
      kind: v.literal('public'),
      prefix: text,
      path: v.optional(below),
      box: v.optional(box),
      compression: v.optional(compression),
      default_acl: v.optional(aclLines),
    }),
  ],
  'must be a table with kind = "shared" or "public"',
)

const Schema = v.strictObject({
  data: v.optional(text),
  users: v.optional(text),
  state: v.optional(text),
  hostname: v.optional(text),
  imap: v.optional(
    v.strictObject({
      listen: v.optional(address),
      tls_listen: v.optional(address),
      connections: v.optional(count),
      idle_minutes: v.optional(v.pipe(count, v.minValue(30, 'must be at least 30 (RFC 3501 §5.4)'))),
      login_seconds: v.optional(count),
      plaintext_login: v.optional(flag),
    }),
  ),
  lmtp: v.optional(
    v.strictObject({
      listen: v.optional(address),
      connections: v.optional(count),
      recipients: v.optional(count),
      separator: v.optional(v.pipe(v.string('must be a string'), v.maxLength(1, 'must be one character, or empty'))),
      return_path: v.optional(flag),
      idle_seconds: v.optional(count),
    }),
  ),
  tls: v.optional(v.strictObject({ cert: text, key: text })),
  store: v.optional(
    v.strictObject({
      flags: v.optional(v.picklist(['flushed', 'lazy'], 'must be "flushed" or "lazy"')),
      message_bytes: v.optional(count),
      idle_seconds: v.optional(count),
      open: v.optional(count),
      box: v.optional(box),
      compression: v.optional(compression),
    }),
  ),
  index: v.optional(v.strictObject({ path: text })),
  acl: v.optional(
    v.strictObject({
      anyone: v.optional(flag),
      defaults_from_inbox: v.optional(flag),
      global: v.optional(text),
    }),
  ),
  namespace: v.optional(v.array(namespace, 'must be tables ([[namespace]])')),
  alternate: v.optional(v.strictObject({ path: text, query: v.optional(query) })),
  attachments: v.optional(
    v.strictObject({
      enabled: v.optional(flag),
      path: v.optional(text),
      min_bytes: v.optional(v.pipe(count, v.maxValue(MIN_BYTES_MAX, `must be at most ${MIN_BYTES_MAX}`))),
      domain: v.optional(v.picklist(['store', 'tenant', 'server'], 'must be "store", "tenant" or "server"')),
      tenants: v.optional(
        v.record(text, v.array(text, 'must be a list of mail domains'), 'must be a table of lists of mail domains'),
      ),
      grace_hours: v.optional(count),
    }),
  ),
  purge: v.optional(
    v.strictObject({
      interval_minutes: v.optional(
        v.pipe(
          v.number('must be a number'),
          v.integer('must be a whole number'),
          v.minValue(0, 'must not be negative'),
        ),
      ),
      copy_bytes: v.optional(count),
      bytes_per_second: v.optional(count),
    }),
  ),
  log: v.optional(
    v.strictObject({
      level: v.optional(
        v.picklist(
          ['trace', 'debug', 'info', 'warn', 'error', 'silent'],
          'must be trace, debug, info, warn, error or silent',
        ),
      ),
    }),
  ),
})

/** The configuration of nothing. */
export const emptyConfig: Config = fromInput({}, '.', '')

/** Reads a file. Paths in it are relative to its directory. ConfigError names file and key. */
export function readConfig(file: string): Config {
  let source: string
  try {
    source = readFileSync(file, 'utf8')
  } catch (error) {
    throw new ConfigError(`${file}: cannot be read: ${(error as Error).message}`, { cause: error })
  }
  return parseConfig(source, file)
}

export function parseConfig(source: string, file: string): Config {
  let table: unknown
  try {
    table = parse(source)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const why = error.message.split('\n')[0]!.replace(/^Invalid TOML document: /, '')
    throw new ConfigError(`${file}:${error.line}:${error.column}: no valid TOML: ${why}`, { cause: error })
  }
  const result = v.safeParse(Schema, table)
  if (!result.success) {
    const lines = result.issues.map((issue) => `${file}: ${complaint(issue)}`)
    throw new ConfigError(lines.join('\n'))
  }
  return fromInput(result.output, dirname(file), file)
}

function complaint(issue: v.BaseIssue<unknown>): string {
  const key = v.getDotPath(issue) ?? ''
  if (issue.type === 'strict_object') {
    const unknown = issue.expected === 'never'
    if (unknown) return `${key}: no such key`
    if (issue.expected === 'Object') return `${key}: must be a table ([${key}])`
    return `${key}: is missing`
  }
  return `${key}: ${issue.message}`
}

function fromInput(input: v.InferOutput<typeof Schema>, base: string, file: string): Config {
  const path = (name: string | undefined): string | undefined => (name === undefined ? undefined : resolve(base, name))
  const { imap, lmtp, store, tls, index, alternate, attachments } = input
  return {
    data: path(input.data),
    users: path(input.users),
    state: path(input.state),
    hostname: input.hostname,
    imap: imap?.listen,
    imaps: imap?.tls_listen,
    lmtp: lmtp?.listen,
    tls: tls === undefined ? undefined : { cert: resolve(base, tls.cert), key: resolve(base, tls.key) },
    imapSettings: {
      connections: imap?.connections,
      idleMinutes: imap?.idle_minutes,
      loginSeconds: imap?.login_seconds,
      plaintextLogin: imap?.plaintext_login,
    },
    lmtpSettings: {
      connections: lmtp?.connections,
      recipients: lmtp?.recipients,
      separator: lmtp?.separator,
      returnPath: lmtp?.return_path,
      idleSeconds: lmtp?.idle_seconds,
    },
    store: {
      flags: store?.flags,
      messageBytes: store?.message_bytes,
      idleSeconds: store?.idle_seconds,
      open: store?.open,
      box: store?.box,
      compression: store?.compression,
    },
    purge: {
      intervalMinutes: input.purge?.interval_minutes,
      copyBytes: input.purge?.copy_bytes,
      bytesPerSecond: input.purge?.bytes_per_second,
    },
    index: index === undefined ? undefined : { path: resolve(base, index.path) },
    alternate: alternate === undefined ? undefined : { path: resolve(base, alternate.path), query: alternate.query },
    attachments: {
      enabled: attachments?.enabled ?? true,
      path: path(attachments?.path),
      minBytes: attachments?.min_bytes,
      domain: attachments?.domain ?? 'store',
      tenants: tenantsOf(attachments?.tenants ?? {}, file),
      graceHours: attachments?.grace_hours,
    },
    acl:
      input.acl === undefined && input.namespace === undefined
        ? undefined
        : {
            anyone: input.acl?.anyone ?? false,
            defaultsFromInbox: input.acl?.defaults_from_inbox ?? false,
            global: path(input.acl?.global),
          },
    namespaces: namespacesOf(input.namespace ?? [], file),
    logLevel: input.log?.level,
  }
}

function tenantsOf(tenants: Readonly<Record<string, readonly string[]>>, file: string): AttachmentSettings['tenants'] {
  const found = new Map<string, string>()
  for (const [tenant, domains] of Object.entries(tenants))
    for (const domain of domains) {
      const name = domain.toLowerCase()
      const other = found.get(name)
      if (other !== undefined && other !== tenant)
        throw new ConfigError(`${file}: attachments.tenants.${tenant}: ${domain} is ${other}'s already`)
      found.set(name, tenant)
    }
  return found
}

function namespacesOf(given: readonly v.InferOutput<typeof namespace>[], file: string): NamespaceConfig[] {
  const heads = new Set<string>()
  const homes = new Set<string>()
  return given.map((one, at): NamespaceConfig => {
    const key = `${file}: namespace.${at}.prefix`
    const { kind, prefix } = one
    const wrong = badNamespace({ kind, prefix })
    if (wrong !== undefined) throw new ConfigError(`${key}: ${wrong}`)
    const head = prefix.replace(/%user.*/, '')
    if (heads.has(head)) throw new ConfigError(`${key}: another namespace has the prefix ${head}`)
    heads.add(head)
    if (one.kind === 'shared') return { kind: 'shared', prefix }
    // As directories of users: safe on any file system.
    const home = one.path ?? userDirectory({ name: prefix.slice(0, -1) }).replace(/^users/, 'public')
    if (homes.has(home))
      throw new ConfigError(`${file}: namespace.${at}.path: another namespace has its store in ${home}`)
    homes.add(home)
    return { kind: 'public', prefix, home, box: one.box, compression: one.compression, defaults: one.default_acl }
  })
}

/** `HOST:PORT`, `[IPV6]:PORT`. A string says what is wrong. */
export function parseListen(value: string): Listen | string {
  const match = /^(?:\[([0-9a-fA-F:.%]+)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(value)
  if (match === null) return `${JSON.stringify(value)} is no address; write HOST:PORT or [IPV6]:PORT`
  const port = Number(match[3])
  if (port > 65_535) return `${port} is no port`
  return { host: match[1] ?? match[2]!, port }
}

/** `HOST:PORT` as it is written. */
export function formatListen({ host, port }: Listen): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}
