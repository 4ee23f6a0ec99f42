/**
 * The second tier of a box, whatever its format: where it is, and whether what is there now is this box's.
 *
 * A box and its tier share an identity, a UUID made for the two: in the marker of the tier, in the box's table (value ALT_KEY), and in a
 * record beside the messages of the first tier. So an empty mount point, or something else that is mounted there, is
 * unavailable and never an empty tier; and what a box that was there before left in a directory is nobody's.
 *
 * INVARIANTS
 *   1. The identity is in the table first, decided there among processes, then in the marker, then in the record; the first message
 *      comes after all of them.
 *   2. Where rows have messages in the tier, or there is a record, a marker that is missing or another's means that the tier is
 *      away: it was there.
 *   3. A tier that carries an identity which is not recorded is foreign, unless rows say otherwise: nothing in it is read or changed.
 */
import { randomBytes } from 'node:crypto'
import type { BoxFinding, BoxHost, BoxScanned } from '@mailstead/box'
import { toHex } from '@mailstead/bytes'
import { type Fs, FsError, type FsSupports, requireSupport } from '@mailstead/fs'
import type { AltOptions } from './options.ts'
import { ALT_MARKER, findTierRecord, readMarker, TIER_RECORD, writeMarker, writeTierRecord } from './tier-record.ts'

/** Table-level value: the UUID (16 bytes) of the second tier. must not change: on disk */
export const ALT_KEY = 'alt'

export interface SecondTierContext {
  readonly host: BoxHost
  /** Of the first tier. */
  readonly fs: Fs
  readonly directory: string
  /** Name of the format. */
  readonly format: string
  readonly requires: readonly (keyof FsSupports)[]
  /** Whether rows have messages in the second tier. */
  readonly hasRows: () => Promise<boolean>
}

/** `new`: nothing says that it was ever used. `foreign`: another box's. */
type State = 'there' | 'new' | 'foreign'

export class SecondTier implements AsyncDisposable {
  readonly #options: AltOptions | undefined
  readonly #context: SecondTierContext
  #fs: Fs | undefined
  #reaching: Promise<Fs> | undefined
  /** A file system that we had opened. */
  #ours: Fs | undefined

  constructor(options: AltOptions | undefined, context: SecondTierContext) {
    this.#options = options
    this.#context = context
  }

  get isConfigured(): boolean {
    return this.#options !== undefined
  }

  /** Its directory, if it is configured. */
  get path(): string {
    return this.#options?.path ?? ''
  }

  /** As it was reached last; whether it is still there, `verify` tells. */
  get reached(): Fs | undefined {
    return this.#fs
  }

  /** There are options for one, or one is recorded. */
  async isKnown(): Promise<boolean> {
    return this.#options !== undefined || (await this.#recorded()) !== undefined
  }

  /** FS_UNAVAILABLE, or what else its file system says, while it is away, or is not this box's. */
  async reach(): Promise<Fs> {
    if (this.#fs !== undefined) return this.#fs
    this.#reaching ??= this.#reach().finally(() => {
      this.#reaching = undefined
    })
    return this.#reaching
  }

  /** The same, looked at again; undefined if nothing in it is this box's. For whoever goes through all of it. */
  async present(): Promise<Fs | undefined> {
    if (this.#options === undefined) {
      const away = await this.#unconfigured()
      if (away !== undefined) throw away
      return undefined
    }
    const fs = await this.#connect()
    return (await this.#look(fs)) === 'there' ? this.reach() : undefined
  }

  /** Why messages that it has cannot be read: it is not configured, or (asked only by a rebuild) it is away. */
  async unavailable(): Promise<FsError | undefined> {
    if (this.#options === undefined) return this.#unconfigured()
    if (this.#context.host.rebuilding !== true) return undefined
    try {
      await this.present()
      return undefined
    } catch (error) {
      if (error instanceof FsError) return error
      throw error
    }
  }

  /** What is to be said of a directory that another box left, or undefined. Fails as `present` does. */
  async foreign(): Promise<string | undefined> {
    if (this.#options === undefined) return undefined
    const fs = await this.#connect()
    if ((await this.#look(fs)) !== 'foreign') return undefined
    return `${this.#isForeign((await this.#marker(fs))!)}: nothing of it is taken`
  }

  /** Fails as `reach` does unless what is there now is this box's tier. */
  async verify(): Promise<void> {
    await this.#mustBeOurs(await this.reach())
  }

  /** Makes the tier what a box may put messages into: identity, record, directory and marker. */
  async prepare(): Promise<Fs> {
    const fs = await this.reach()
    const { path } = this.#options!
    const state = await this.#mustBeOurs(fs)
    // It may have been unmounted since it was reached, and without a marker only whoever gave it can tell.
    if (state === 'new' && typeof this.#options!.fs === 'function')
      await (await this.#options!.fs())[Symbol.asyncDispose]()
    const known = (await this.#recorded()) ?? (await this.#marker(fs)) ?? randomBytes(16)
    const uuid = await this.#claim(known)
    if (state === 'new') {
      await fs.makeDirectory(path)
      try {
        await fs.writeFile(`${path}/${ALT_MARKER}`, writeMarker(uuid), { ifAbsent: true })
      } catch (error) {
        if (!(error instanceof FsError && error.code === 'FS_EXISTS')) throw error
      }
      if ((await this.#mustBeOurs(fs)) !== 'there') throw this.#away('its marker was not written')
    }
    await this.#record(uuid)
    return fs
  }

  /** Records beside the messages what only the table knows, should the record be missing or damaged. */
  async note(): Promise<void> {
    const uuid = this.#tabled
    if (uuid === undefined || this.#context.host.rebuilding === true) return
    const found = await this.#found()
    if ((found === undefined || found === 'damaged') && (await this.#context.hasRows())) await this.#record(uuid)
  }

  /** What is wrong with the record, or undefined. */
  async damage(): Promise<string | undefined> {
    const found = await this.#found()
    if (found === 'damaged') return 'what is recorded of the second tier is damaged'
    const tabled = this.#tabled
    if (found === undefined || tabled === undefined || isSame(found.uuid, tabled)) return undefined
    return `the second tier is recorded as ${toHex(found.uuid)}, and the index says ${toHex(tabled)}`
  }

  get #tabled(): Uint8Array | undefined {
    return this.#context.host.table.view.values?.get(ALT_KEY)
  }

  async #found(): ReturnType<typeof findTierRecord> {
    return findTierRecord(this.#context.fs, this.#context.directory)
  }

  /** What the table says; if it has lost that, what is recorded beside the messages. */
  async #recorded(): Promise<Uint8Array | undefined> {
    const tabled = this.#tabled
    if (tabled !== undefined) return tabled
    const found = await this.#found()
    if (found === 'damaged')
      throw this.#away(`its record ${this.#recordPath} is damaged, and the index has lost it too`)
    return found?.uuid
  }

  get #recordPath(): string {
    return `${this.#context.directory}/${TIER_RECORD}`
  }

  /** Without configuration: what says that it should have one. A record tells less than rows while nothing is rebuilt. */
  async #unconfigured(): Promise<FsError | undefined> {
    const found = await this.#found()
    if (found === undefined && !(await this.#context.hasRows())) return undefined
    const uuid = found === undefined || found === 'damaged' ? this.#tabled : found.uuid
    const what = uuid === undefined ? '' : `, and it is recorded as ${toHex(uuid)}`
    return this.#away(`it is not configured${what}`)
  }

  /** The identity that counts: `uuid`, unless another process had one recorded first. */
  async #claim(uuid: Uint8Array): Promise<Uint8Array> {
    const tabled = this.#tabled
    if (tabled !== undefined) return tabled
    const { host } = this.#context
    try {
      await host.transact((tx) => {
        if (tx.setValue === undefined) throw new TypeError('a second tier needs a host with values')
        tx.expectValue?.(host.table.id, ALT_KEY, undefined)
        tx.setValue(host.table.id, ALT_KEY, uuid)
      })
    } catch (error) {
      await host.refresh()
      if (this.#tabled === undefined) throw error
    }
    await host.refresh()
    return this.#tabled ?? uuid
  }

  async #record(uuid: Uint8Array): Promise<void> {
    const { fs, directory, format } = this.#context
    const found = await this.#found()
    if (found !== undefined && found !== 'damaged') {
      if (isSame(found.uuid, uuid)) return
      throw this.#away(`${this.#recordPath} records it as ${toHex(found.uuid)}, and the index says ${toHex(uuid)}`)
    }
    await fs.makeDirectory(directory)
    // Whoever writes it at the same time writes the same.
    await fs.writeFile(this.#recordPath, writeTierRecord({ format, uuid }))
  }

  async #reach(): Promise<Fs> {
    const fs = await this.#connect()
    await this.#mustBeOurs(fs)
    this.#fs = fs
    return fs
  }

  async #connect(): Promise<Fs> {
    const options = this.#options
    if (options === undefined) throw (await this.#unconfigured()) ?? this.#away('it is not configured')
    let fs: Fs
    if (typeof options.fs === 'function') {
      this.#ours ??= await options.fs()
      fs = this.#ours
    } else fs = options.fs
    requireSupport(fs, this.#context.requires)
    return fs
  }

  async #mustBeOurs(fs: Fs): Promise<'there' | 'new'> {
    const state = await this.#look(fs)
    if (state === 'foreign') throw this.#away(this.#isForeign((await this.#marker(fs))!))
    return state
  }

  async #look(fs: Fs): Promise<State> {
    const { host, hasRows } = this.#context
    const found = await this.#marker(fs)
    if (found === undefined) {
      // The newest rows: another process may have used it first.
      await host.refresh()
      if ((await this.#marker(fs)) !== undefined) return this.#look(fs)
      if ((await this.#found()) === undefined && !(await hasRows())) return 'new'
      const recorded = await this.#recorded()
      throw this.#away(`its marker is missing${recorded === undefined ? '' : ` (${toHex(recorded)})`}`)
    }
    if (this.#tabled === undefined) await host.refresh()
    const recorded = await this.#recorded()
    if (recorded === undefined) return (await hasRows()) ? 'there' : 'foreign'
    if (isSame(recorded, found)) return 'there'
    throw this.#away(`${this.#isForeign(found)}, and that of this one is ${toHex(recorded)}`)
  }

  #isForeign(found: Uint8Array): string {
    return `its marker is that of another box (${toHex(found)})`
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

  #away(why: string): FsError {
    return new FsError('FS_UNAVAILABLE', `the second tier of the messages is not there: ${why}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reaching?.catch(() => {})
    await this.#ours?.[Symbol.asyncDispose]()
  }
}

/** What a scan gives of a tier that is another box's. */
export function scannedTier(damage: string): BoxScanned[] {
  const file = `alt/${ALT_MARKER}`
  return [{ file, offset: 0, guid: undefined, receivedMs: 0, physicalSize: 0, mailbox: undefined, damage }]
}

/** What a check finds of the tier itself. */
export async function* checkTier(second: SecondTier): AsyncGenerator<BoxFinding> {
  const found = { offset: 0, ref: undefined }
  const damage = await second.damage()
  if (damage !== undefined)
    yield { severity: 'damage', kind: 'tier-record', file: TIER_RECORD, message: damage, ...found }
  const foreign = await second.foreign()
  if (foreign !== undefined)
    yield { severity: 'note', kind: 'tier-foreign', file: `alt/${ALT_MARKER}`, message: foreign, ...found }
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0
}
