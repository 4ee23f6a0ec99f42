/**
 * Where the attachments of a user are kept once, as a format for the user's store. A store that has attachments keeps them where they
 * are, whatever the configuration says later; while that is away, the rest of its mail is served.
 *
 * FORMAT   value `place` of the table of blobs: UUID of the root (16 bytes), then the directory below it, UTF-8. It is written in the frame
 *          of each message that is the first to have blobs. Without it (none was saved yet, or the table was lost) the
 *          configuration says where they are.
 *
 * INVARIANTS
 *   1. Opening needs nothing of the directory, and makes nothing there: a store opens while its attachments are away.
 *   2. A directory of blobs is made by a save, and by nothing else.
 */
import { type Fs, FsError } from '@mailstead/fs'
import { userDirectory, userKey } from '@mailstead/server'
import {
  attachments,
  type AttachmentsOptions,
  type AttachmentsSweepOptions,
  BLOB_COLUMNS,
  type BlobBudget,
  blobBudget,
  type BlobTurns,
  type CheckOptions,
  type Messages,
  MIN_SIZE_DEFAULT,
  type ReferenceHost,
  type ReferenceTransaction,
  type SisAttachments,
  type SisAttachmentStore,
  type SisBatch,
  SisError,
  type SisFinding,
  type SisMessage,
  type SisStats,
  type SweepReport,
  weave,
  type Woven,
  type WovenInline,
} from '@mailstead/sis'
import { attachmentsRoot, type AttachmentsWhere, makeAttachmentsBelow } from './attachments-root.ts'
import type { AttachmentSettings } from './config.ts'
import { rootFs, rootUuid } from './roots.ts'

/** As @mailstead/sis names it. Must not change: on disk. */
const FORMAT = 'sis'
/** Must not change: on disk. */
const VALUE_PLACE = 'place'
const UUID_BYTES = 16
const HOUR_MS = 3_600_000
/** Of tenants. No encoded name is this. Must not change: on disk. */
const NO_TENANT = '%'
/** With any key blobs are read: names are only made, and compared by a check, with the right one. */
const NO_KEY = new Uint8Array(32)

/** Of all stores of this process, whatever they share: keys of different domains are different. */
const turns: BlobTurns = new Map()
/** Of all savers of this process. */
const budget: BlobBudget = blobBudget()

export interface AttachmentUser {
  readonly name: string
}

/** The directory of a user's attachments below their root, for stores that have none yet. Must not change: on disk. */
export function attachmentsPath({ name }: AttachmentUser, { domain, tenants }: AttachmentSettings): string {
  if (domain === 'server') return 'server'
  if (domain === 'store') return userDirectory({ name })
  const key = userKey(name)
  const mailDomain = key.includes('@') ? key.slice(key.lastIndexOf('@') + 1) : ''
  const tenant = tenants.get(mailDomain) ?? mailDomain
  return `tenants/${tenant === '' ? NO_TENANT : userDirectory({ name: tenant }).slice('users/'.length)}`
}

/** An `AttachmentFormat` of @mailstead/box. */
export function userAttachments(
  user: AttachmentUser,
  settings: AttachmentSettings,
  where: AttachmentsWhere,
): SisAttachments {
  const configured = attachmentsPath(user, settings)
  const { minBytes, graceHours } = settings
  const options: AttachmentsOptions = {
    turns,
    budget,
    mayBeAway: false,
    ...(minBytes === undefined ? {} : { minSize: minBytes }),
    ...(graceHours === undefined ? {} : { graceMs: graceHours * HOUR_MS }),
  }
  return {
    name: FORMAT,
    columns: BLOB_COLUMNS,
    unavailable: () => awayRoot(where),
    open: (host) => Promise.resolve(new UserAttachments(host, where, configured, settings.enabled, options)),
  }
}

/** What could be opened, and where. */
interface Opened {
  readonly store: SisAttachmentStore
  readonly place: Uint8Array
  /** Without the key of its domain: nothing can be saved, nor names checked. `lost`: or was never made. */
  readonly bare: 'lost' | 'damaged' | undefined
}

class UserAttachments implements SisAttachmentStore {
  readonly name = FORMAT
  readonly messageMinBytes: number
  readonly #host: ReferenceHost
  readonly #where: AttachmentsWhere
  readonly #configured: string
  readonly #options: AttachmentsOptions
  readonly #held = new AsyncDisposableStack()
  /** Transactions that record the place. */
  readonly #told = new WeakSet<object>()
  #root: { readonly fs: Fs; readonly uuid: Uint8Array } | undefined
  #opened: Opened | undefined
  #opening: Promise<unknown> = Promise.resolve()

  constructor(
    host: ReferenceHost,
    where: AttachmentsWhere,
    configured: string,
    enabled: boolean,
    options: AttachmentsOptions,
  ) {
    this.#host = host
    this.#where = where
    this.#configured = configured
    this.#options = options
    this.messageMinBytes = enabled ? (options.minSize ?? MIN_SIZE_DEFAULT) : Infinity
  }

  begin(): SisBatch {
    return new LateBatch(async () => this.#open(true), this.#host, this.#told)
  }

  async open(segments: Uint8Array, inline: WovenInline): Promise<Woven> {
    let opened: Opened
    try {
      opened = await this.#open(false)
    } catch (error) {
      return woven(segments, inline, error)
    }
    return opened.store.open(segments, inline)
  }

  async drop(messages: readonly Uint8Array[]): Promise<{ record(tx: ReferenceTransaction): void }> {
    return (await this.#open(false)).store.drop(messages)
  }

  async sweep(options?: AttachmentsSweepOptions): Promise<SweepReport> {
    await this.#host.refresh()
    const { view } = this.#host.table
    // Nothing was ever saved: not even the directory is there.
    if (view.count === 0 && view.values?.has(VALUE_PLACE) !== true)
      return { rows: 0, blobs: 0, bytes: 0, left: 0, unexplained: 0, temporary: 0 }
    return (await this.#open(false)).store.sweep(options)
  }

  async *check(messages?: Messages, options?: CheckOptions): AsyncGenerator<readonly SisFinding[], void, undefined> {
    const { view } = this.#host.table
    const isUsed = view.count > 0 || view.values?.has(VALUE_PLACE) === true
    let opened: Opened
    try {
      opened = await this.#open(false)
    } catch (error) {
      if (isUsed || !(error instanceof FsError && error.code === 'FS_UNAVAILABLE')) throw error
      // Nothing was ever saved, unless the table was lost: then messages tell.
      for await (const page of messages ?? []) if (page.length > 0) throw error
      return
    }
    // Told once, with the blobs: uses are compared in another pass.
    if (opened.bare !== undefined && isUsed && options?.blobs !== false) {
      const isLost = opened.bare === 'lost'
      const kind = isLost ? 'domain-missing' : 'domain-damaged'
      const then = isLost
        ? 'what comes is kept anew'
        : 'nothing more can be kept here until that file is restored, or removed'
      const message = `the key of its domain is ${opened.bare}: names of blobs cannot be checked, and ${then}`
      yield [{ severity: 'damage', kind, file: placeText(opened.place), ref: undefined, message }]
    }
    yield* opened.store.check(messages, options)
  }

  async repair(messages: Messages, options?: { readonly incomplete?: boolean }): Promise<readonly SisFinding[]> {
    if (this.#where.path === undefined) await makeAttachmentsBelow(this.#where)
    const { store, place } = await this.#open(false)
    const findings = await store.repair(messages, options)
    const { id, view } = this.#host.table
    if (view.count > 0 && view.values?.has(VALUE_PLACE) !== true)
      await this.#host.transact((tx) => tx.setValue(id, VALUE_PLACE, place))
    return findings
  }

  async stats(): Promise<SisStats> {
    const { view } = this.#host.table
    if (view.count === 0)
      return { blobs: 0, references: 0, logicalBytes: 0, storedBytes: 0, unusedBlobs: 0, unusedBytes: 0, savings: 0 }
    return (await this.#open(false)).store.stats()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opening.catch(() => undefined)
    await this.#held.disposeAsync()
  }

  /** FS_UNAVAILABLE while the root is away. What was opened once stays; one attempt at a time. */
  #open(create: boolean): Promise<Opened> {
    const usable = (opened: Opened | undefined): opened is Opened =>
      opened !== undefined && !(create && opened.bare !== undefined) && isPlace(this.#host, opened.place)
    if (usable(this.#opened)) return Promise.resolve(this.#opened)
    const attempt = this.#opening
      .catch(() => undefined)
      .then(async () => (usable(this.#opened) ? this.#opened : this.#attempt(create)))
    this.#opening = attempt
    return attempt
  }

  async #attempt(create: boolean): Promise<Opened> {
    const { path } = this.#where
    const recorded = this.#host.table.view.values?.get(VALUE_PLACE)
    const wanted = recorded?.subarray(0, UUID_BYTES)
    if (this.#root === undefined || (wanted !== undefined && hex(wanted) !== hex(this.#root.uuid))) {
      if (create && path === undefined) await makeAttachmentsBelow(this.#where)
      const where = attachmentsRoot(this.#where)
      // It says which root it is, so that a store which has none yet knows what to record.
      const uuid = wanted ?? (await rootUuid(where, 'attachments', this.#where.mounts))
      this.#root = { fs: this.#held.use(await rootFs(where, 'attachments', uuid, this.#where.mounts)), uuid: uuid! }
    }
    const { fs, uuid } = this.#root
    const place = recorded ?? placeOf(uuid, this.#configured)
    const directory = placeText(place)
    const options = { ...this.#options, shared: !directory.startsWith('users/') }
    let opened: Opened
    try {
      opened = {
        store: await attachments(fs, directory, { ...options, create, mayBeAway: false }).open(this.#host),
        place,
        bare: undefined,
      }
    } catch (error) {
      if (create || !(error instanceof SisError && (error.code === 'SIS_NO_STORE' || error.code === 'SIS_CORRUPT')))
        throw error
      opened = {
        store: await attachments(fs, directory, { ...options, key: NO_KEY, mayBeAway: false }).open(this.#host),
        place,
        bare: error.code === 'SIS_NO_STORE' ? 'lost' : 'damaged',
      }
    }
    this.#held.use(opened.store)
    this.#opened = opened
    return opened
  }
}

interface Begun {
  readonly batch: SisBatch
  readonly place: Uint8Array
}

/** A batch of a store that is opened with the first bytes of the first message. */
class LateBatch implements SisBatch {
  readonly #open: () => Promise<Opened>
  readonly #host: ReferenceHost
  readonly #told: WeakSet<object>
  #begun: Promise<Begun> | undefined

  /** `told`: transactions that record the place. */
  constructor(open: () => Promise<Opened>, host: ReferenceHost, told: WeakSet<object>) {
    this.#open = open
    this.#host = host
    this.#told = told
  }

  message(keep: (bytes: Uint8Array) => void | Promise<void>): SisMessage {
    const { table } = this.#host
    const told = this.#told
    let message: SisMessage | undefined
    let place: Uint8Array | undefined
    let hasBlobs = false
    return {
      write: (bytes) => {
        if (message !== undefined) return message.write(bytes)
        return this.#begin().then(({ batch, place: where }) => {
          place = where
          const begun = batch.message(keep)
          message = begun
          return begun.write(bytes)
        })
      },
      end: async () => {
        const segments = await message?.end()
        hasBlobs = segments !== undefined
        return segments
      },
      record: (tx) => {
        message?.record(tx)
        if (!hasBlobs || place === undefined) return
        // Another process, with another configuration, was the first.
        if (!isPlace(this.#host, place)) throw new FsError('FS_UNAVAILABLE', 'the attachments have another place now')
        if (table.view.values?.has(VALUE_PLACE) === true || told.has(tx)) return
        // Once for each transaction: what it sets itself is not what it may expect.
        told.add(tx)
        tx.expectValue(table.id, VALUE_PLACE, undefined)
        tx.setValue(table.id, VALUE_PLACE, place)
      },
    }
  }

  async flush(): Promise<void> {
    await (await this.#begun)?.batch.flush()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const begun = await this.#begun?.catch(() => undefined)
    await begun?.batch[Symbol.asyncDispose]()
  }

  #begin(): Promise<Begun> {
    this.#begun ??= this.#open().then(({ store, place }) => ({ batch: store.begin(), place }))
    return this.#begun
  }
}

/** The message without its parts, each of which fails with `cause`. */
function woven(segments: Uint8Array, inline: WovenInline, cause: unknown): Woven {
  try {
    return weave(segments, inline, { open: () => Promise.reject(cause as Error) })
  } catch (error) {
    if (!(error instanceof SisError)) throw error
    throw Object.assign(error, { attachment: 'damaged' as const, start: 0, end: 0 })
  }
}

/** Why the root cannot be reached. Where there never was one below the data directory, it will be made. */
async function awayRoot(where: AttachmentsWhere): Promise<Error | undefined> {
  try {
    if (where.path === undefined) await makeAttachmentsBelow(where)
    const fs = await rootFs(attachmentsRoot(where), 'attachments', undefined, where.mounts)
    await fs[Symbol.asyncDispose]()
    return undefined
  } catch (error) {
    return error as Error
  }
}

/** Whether no other place is recorded. */
function isPlace({ table }: ReferenceHost, place: Uint8Array): boolean {
  const recorded = table.view.values?.get(VALUE_PLACE)
  return recorded === undefined || hex(recorded) === hex(place)
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

function placeOf(uuid: Uint8Array, directory: string): Uint8Array {
  return Buffer.concat([uuid, Buffer.from(directory)])
}

function placeText(place: Uint8Array): string {
  return Buffer.from(place.subarray(UUID_BYTES)).toString()
}
