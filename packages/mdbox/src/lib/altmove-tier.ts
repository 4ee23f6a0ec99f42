/** The tiers of an mdbox: directories with message files, its own and perhaps a second one elsewhere (second-tier.ts). */
import type { BoxFinding, BoxHost } from '@mailstead/box'
import type { Fs, FsError } from '@mailstead/fs'
import { Appender } from './append.ts'
import { FileCache } from './files.ts'
import type { AltOptions, MdboxSettings } from './options.ts'
import { FLAG_ALT, type PlaceTable } from './place.ts'
import { listFiles } from './scan.ts'
import { checkTier, SecondTier } from './second-tier.ts'
import type { Slot } from './slot.ts'
import { findTierRecord } from './tier-record.ts'

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
  readonly #second: SecondTier
  readonly #context: TierContext
  #tier: Tier | undefined

  /** `primary`: the first. */
  constructor(options: AltOptions | undefined, primary: { fs: Fs; directory: string }, context: TierContext) {
    this.#context = context
    this.#second = new SecondTier(options, {
      ...primary,
      host: context.host,
      format: 'mdbox',
      requires: ['append'],
      hasRows: () => hasRows(context.places),
    })
  }

  /** As it was reached last; whether it is still there, `verify` tells. */
  get reached(): Tier | undefined {
    return this.#tier
  }

  /** There are options for one, or one is recorded. */
  async isKnown(): Promise<boolean> {
    return this.#second.isKnown()
  }

  /** FS_UNAVAILABLE, or what else its file system says, while it is away. */
  async reach(): Promise<Tier> {
    return this.#tier ?? this.#on(await this.#second.reach())
  }

  /** The same, looked at again; undefined if nothing in it is this box's. For whoever goes through all of it. */
  async present(): Promise<Tier | undefined> {
    const fs = await this.#second.present()
    return fs === undefined ? undefined : this.#on(fs)
  }

  /** Fails as `reach` does unless what is there now is this box's tier. */
  async verify(): Promise<void> {
    await this.#second.verify()
  }

  /** Makes the tier what a box may put messages into. */
  async prepare(): Promise<Tier> {
    return this.#on(await this.#second.prepare())
  }

  async unavailable(): Promise<FsError | undefined> {
    return this.#second.unavailable()
  }
  async foreign(): Promise<string | undefined> {
    return this.#second.foreign()
  }
  async note(): Promise<void> {
    await this.#second.note()
  }
  check(): AsyncIterable<BoxFinding> {
    return checkTier(this.#second)
  }

  #on(fs: Fs): Tier {
    this.#tier ??= new Tier(true, fs, this.#second.path, this.#context)
    return this.#tier
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tier?.[Symbol.asyncDispose]()
    await this.#second[Symbol.asyncDispose]()
  }
}

async function hasRows(places: PlaceTable): Promise<boolean> {
  const { view, flags } = await places.loaded()
  for (let row = 0; row < view.count; row++) if ((flags.number(row) & FLAG_ALT) !== 0) return true
  return false
}

/** Whether there are message files, or what says that they are in a second tier. That is not asked: it may be away. */
export async function hasMessages(fs: Fs, directory: string): Promise<boolean> {
  if ((await listFiles(fs, directory)).length > 0) return true
  const record = await findTierRecord(fs, directory)
  return record !== undefined && (record === 'damaged' || record.format === 'mdbox')
}
