/**
 * The tiers of a box: its own directory, and perhaps a second one elsewhere.
 *
 * The second tier carries a marker, and the box's table the same UUID (value ALT_KEY), so that an empty mount point, or
 * something else that is mounted there, is unavailable and never an empty tier. The UUID is recorded before the marker is
 * written, and both before the first message: where rows have messages in the tier, a marker that is missing or another's means
 * that the tier is away.
 *
 * FORMAT   `<path>/mailstead-alt` := "mailstead-alt 0 " uuid SP crc LF
 *          uuid: 32 lower-case hex digits; crc: CRC-32 of what is before it, in 8. must not change: on disk
 */
import { randomBytes } from 'node:crypto'
import type { BoxHost } from '@mailstead/box'
import { crc32, parseHex, toHex } from '@mailstead/bytes'
import { type Fs, FsError, requireSupport } from '@mailstead/fs'
import { Appender } from './append.ts'
import { FileCache } from './files.ts'
import { hex8 } from './format.ts'
import type { AltOptions, MdboxSettings } from './options.ts'
import { FLAG_ALT, type PlaceTable } from './place.ts'
import { listFiles } from './scan.ts'
import type { Slot } from './slot.ts'

/** must not change: on disk */
export const ALT_MARKER = 'mailstead-alt'
/** Table-level value: the UUID (16 bytes) of the second tier. must not change: on disk */
export const ALT_KEY = 'alt'
/** A marker is not longer, in bytes. */
const MARKER_MAX = 256

/** What both tiers share. */
export interface TierContext {
  readonly host: BoxHost
  readonly places: PlaceTable
  readonly slot: Slot
  readonly settings: MdboxSettings
}

/** A directory with message files. */
export class Tier implements AsyncDisposable {
  readonly alt: boolean
  readonly fs: Fs
  readonly directory: string
  readonly files: FileCache
  readonly appender: Appender

  constructor(alt: boolean, fs: Fs, directory: string, { places, slot, settings }: TierContext) {
    this.alt = alt
    this.fs = fs
    this.directory = directory
    this.files = new FileCache((id) => fs.open(`${directory}/m.${id}`, 'read'), settings.openFiles)
    this.appender = new Appender({ fs, directory, tier: alt ? FLAG_ALT : 0, slot, places, settings })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.appender.dispose()
    this.files.dropAll()
  }
}

/** The second tier, which may be away. */
export class AltTier implements AsyncDisposable {
  readonly #options: AltOptions | undefined
  readonly #context: TierContext
  #tier: Tier | undefined
  #reaching: Promise<Tier> | undefined
  /** A file system that we had opened. */
  #ours: Fs | undefined

  constructor(options: AltOptions | undefined, context: TierContext) {
    this.#options = options
    this.#context = context
  }

  /** As it was reached last; whether it is still there, `verify` tells. */
  get reached(): Tier | undefined {
    return this.#tier
  }

  /** There are options for one, or it has messages. */
  get isKnown(): boolean {
    return this.#options !== undefined || this.#recorded !== undefined
  }

  /** FS_UNAVAILABLE, or what else its file system says, while it is away. */
  async reach(): Promise<Tier> {
    if (this.#tier !== undefined) return this.#tier
    this.#reaching ??= this.#reach().finally(() => {
      this.#reaching = undefined
    })
    return this.#reaching
  }

  /** The same, looked at again; undefined if there is nothing in it yet. For whoever goes through all of it. */
  async present(): Promise<Tier | undefined> {
    if (this.#options === undefined) {
      if (await this.#hasRows()) return this.reach()
      return undefined
    }
    const tier = await this.reach()
    return (await this.#verify(tier.fs)) === 'new' ? undefined : tier
  }

  /** Fails as `reach` does unless what is there now is this box's tier. */
  async verify(): Promise<void> {
    const tier = await this.reach()
    await this.#verify(tier.fs)
  }

  /** Makes the tier what a box may put messages into: directory, UUID and marker. */
  async prepare(): Promise<Tier> {
    const tier = await this.reach()
    if ((await this.#verify(tier.fs)) === 'there') return tier
    const { host } = this.#context
    const { fs, path } = this.#options!
    // It may have been unmounted since it was reached, and without a marker only whoever gave it can tell.
    if (typeof fs === 'function') await (await fs())[Symbol.asyncDispose]()
    let uuid = this.#recorded
    if (uuid === undefined) {
      uuid = randomBytes(16)
      const value = uuid
      await host.transact((tx) => {
        if (tx.setValue === undefined) throw new TypeError('a second tier needs a host with values')
        tx.setValue(host.table.id, ALT_KEY, value)
      })
      // Another process may have recorded one at the same time: the last counts.
      await host.refresh()
      uuid = this.#recorded ?? uuid
    }
    await tier.fs.makeDirectory(path)
    try {
      await tier.fs.writeFile(`${path}/${ALT_MARKER}`, writeMarker(uuid), { ifAbsent: true })
    } catch (error) {
      if (!(error instanceof FsError && error.code === 'FS_EXISTS')) throw error
    }
    if ((await this.#verify(tier.fs)) === 'there') return tier
    throw this.#away('its marker was not written')
  }

  get #recorded(): Uint8Array | undefined {
    return this.#context.host.table.view.values?.get(ALT_KEY)
  }

  async #reach(): Promise<Tier> {
    const options = this.#options
    if (options === undefined) throw this.#away('it is not configured')
    let fs: Fs
    if (typeof options.fs === 'function') {
      this.#ours ??= await options.fs()
      fs = this.#ours
    } else fs = options.fs
    requireSupport(fs, ['append'])
    await this.#verify(fs)
    this.#tier = new Tier(true, fs, options.path, this.#context)
    return this.#tier
  }

  /** `new`: nothing says that it was ever used. */
  async #verify(fs: Fs): Promise<'there' | 'new'> {
    const { host } = this.#context
    const found = await this.#marker(fs)
    if (found === undefined) {
      // The newest rows: another process may have used it first.
      await host.refresh()
      if ((await this.#marker(fs)) !== undefined) return this.#verify(fs)
      if (await this.#hasRows()) throw this.#away('its marker is missing')
      return 'new'
    }
    if (this.#recorded === undefined) await host.refresh()
    const recorded = this.#recorded
    if (recorded !== undefined && Buffer.compare(recorded, found) === 0) return 'there'
    // A table that has lost everything says nothing against it.
    if (recorded === undefined && (host.rebuilding === true || (await this.#hasRows()))) return 'there'
    throw this.#away(`its marker is that of another box (${toHex(found)})`)
  }

  async #marker(fs: Fs): Promise<Uint8Array | undefined> {
    let bytes: Uint8Array
    try {
      bytes = await fs.readFile(`${this.#options!.path}/${ALT_MARKER}`)
    } catch (error) {
      if (error instanceof FsError && error.code === 'FS_NOT_FOUND') return undefined
      throw error
    }
    const uuid = readMarker(bytes)
    if (uuid === undefined) throw this.#away('its marker is damaged')
    return uuid
  }

  async #hasRows(): Promise<boolean> {
    const { view, flags } = await this.#context.places.loaded()
    for (let row = 0; row < view.count; row++) if ((flags.number(row) & FLAG_ALT) !== 0) return true
    return false
  }

  #away(why: string): FsError {
    return new FsError('FS_UNAVAILABLE', `the second tier of the messages is not there: ${why}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reaching?.catch(() => {})
    await this.#tier?.[Symbol.asyncDispose]()
    await this.#ours?.[Symbol.asyncDispose]()
  }
}

/**
 * Whether there are message files, in either tier. The second is asked only where something was in the first once: it may be away
 * when somebody's first message comes.
 */
export async function hasMessages(fs: Fs, directory: string, alt: AltOptions | undefined): Promise<boolean> {
  if ((await listFiles(fs, directory)).length > 0) return true
  if (alt === undefined || !(await hasEntries(fs, directory))) return false
  if (typeof alt.fs !== 'function') return hasEntries(alt.fs, alt.path)
  await using second = await alt.fs()
  return await hasEntries(second, alt.path)
}

async function hasEntries(fs: Fs, directory: string): Promise<boolean> {
  for await (const page of fs.list(directory)) if (page.length > 0) return true
  return false
}

export function writeMarker(uuid: Uint8Array): Buffer {
  const text = `mailstead-alt 0 ${toHex(uuid)}`
  return Buffer.from(`${text} ${hex8(crc32(Buffer.from(text)))}\n`)
}

/** Undefined: this is no marker. */
export function readMarker(bytes: Uint8Array): Uint8Array | undefined {
  if (bytes.length > MARKER_MAX) return undefined
  const match = /^(mailstead-alt 0 ([0-9a-f]{32})) ([0-9a-f]{8})\n$/.exec(Buffer.from(bytes).toString('latin1'))
  if (match === null || Number.parseInt(match[3]!, 16) !== crc32(Buffer.from(match[1]!))) return undefined
  return parseHex(match[2]!)
}
