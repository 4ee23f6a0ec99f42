/** What a repair writes, step by step; see `repair.ts` for what a crash leaves of it. */
import { ByteWriter } from '@mailstead/bytes'
import { type Fs, FsError, type FsWriteOptions } from '@mailstead/fs'
import { type Control, sealedControl, writeControlFile } from './control.ts'
import { FRAME_END, writeFrame } from './frame.ts'
import { readIfThere } from './if-there.ts'
import { keepsObjects } from './object-log.ts'
import { gatherEvidence } from './repair-log.ts'
import type { RepairPlan } from './repair-plan.ts'
import { record, type RepairRecord } from './repair-record.ts'
import { segmentName, segmentOfName, writeSegmentHeader } from './segment.ts'
import type { Settings } from './settings.ts'
import { Snapshots } from './snapshots.ts'
import { listChecksum, writeTableList } from './table-list.ts'

export class RepairWork implements AsyncDisposable {
  readonly #fs: Fs
  readonly #prefix: string
  readonly #settings: Settings
  readonly #dryRun: boolean
  /** The file system has no locks: nothing is replaced but what was there when `notice` was called. */
  readonly #objects: boolean
  #snapshots: Snapshots | undefined
  #control: FsWriteOptions = {}
  #list: FsWriteOptions = {}

  constructor(fs: Fs, prefix: string, settings: Settings, dryRun: boolean) {
    this.#fs = fs
    this.#prefix = prefix
    this.#settings = settings
    this.#dryRun = dryRun
    this.#objects = keepsObjects(fs.supports)
  }

  /** Before anything is read by which a plan is made: what is there. */
  async notice(): Promise<void> {
    if (!this.#objects) return
    this.#control = await this.#condition('control')
    this.#list = await this.#condition('tables/directory')
    const named = await gatherEvidence(this.#fs, this.#prefix)
    if (named === undefined) return
    this.#snapshots = new Snapshots(this.#fs, this.#prefix, named.uuid, this.#settings)
    for await (const page of this.#fs.list(`${this.#prefix}tables`))
      for (const { name } of page)
        if (name.endsWith('.snap')) await this.#snapshots.notice(name.slice(0, -'.snap'.length))
  }

  async #condition(file: string): Promise<FsWriteOptions> {
    const stat = await this.#fs.stat(`${this.#prefix}${file}`)
    return stat === undefined ? { ifAbsent: true } : { ifMatch: stat.tag }
  }

  async renew(plan: RepairPlan, page: RepairRecord[]): Promise<void> {
    const { evidence, tables, keep, frame } = plan
    const fs = this.#fs
    const prefix = this.#prefix
    const segment = evidence.lastSegment + 1
    const log = evidence.segments.map((one) => `log/${segmentName(one)}`)
    const renewed = tables.filter(({ entry }) => !keep.has(entry.number))
    const replaced = [
      ...renewed.map(({ entry }) => `tables/${entry.id}.snap`),
      ...plan.ruins.map(({ id }) => `tables/${id}.snap`),
      ...plan.removed,
      'tables/directory.old',
      'tables/directory',
      ...log,
      'control',
    ]
    await this.copy(replaced)
    const begun = this.#segment(evidence.uuid, segment, frame + 1)
    const begin = async (): Promise<void> => {
      await fs.makeDirectory(`${prefix}log`)
      await fs.writeFile(`${prefix}log/${segmentName(segment)}`, begun.bytes, this.#objects ? { ifAbsent: true } : {})
    }
    if (this.#objects && !this.#dryRun) await begin()
    this.#snapshots ??= new Snapshots(fs, prefix, evidence.uuid, this.#settings)
    for (const { entry, state, why } of renewed) {
      const file = `tables/${entry.id}.snap`
      page.push(record('changed', `${prefix}${file}`, 'snapshot', why, `frame ${frame}`, 'written anew', entry.id))
      if (this.#dryRun) continue
      entry.snapshot = (await this.#snapshots.write(state, frame, undefined)).place
    }
    const segments = evidence.segments.join(', ')
    page.push(
      record('changed', `${prefix}log`, 'log', `segments ${segments}`, `segment ${segment}`, 'the log begins anew'),
    )
    const generation = 1 + Math.max(0, ...evidence.lists.map((list) => list.generation))
    const before = evidence.lists.map((list) => `generation ${list.generation}`).join(', ')
    const list = {
      uuid: evidence.uuid,
      generation,
      segment,
      offset: begun.bytes.length,
      next: frame + 2,
      chain: begun.chain,
      ended: this.#objects,
      firstSegment: segment,
      nextTable: plan.nextTable,
      logBytes: 0,
      tables: [...tables.map(({ entry }) => entry), ...plan.ruins],
      dropped: plan.dropped,
      dropHorizon: plan.dropHorizon,
    }
    page.push(
      record(
        'changed',
        `${prefix}tables/directory`,
        'list',
        before || 'damaged',
        `generation ${generation}`,
        'written anew',
      ),
    )
    let directory = 0
    if (!this.#dryRun) {
      if (!this.#objects) await begin()
      await fs.makeDirectory(`${prefix}tables`)
      const bytes = writeTableList(list)
      directory = listChecksum(bytes)
      await fs.writeFile(`${prefix}tables/directory.old`, bytes)
      await fs.writeFile(`${prefix}tables/directory`, bytes, this.#list)
      for (const file of [...log, ...plan.removed]) await this.#remove(file)
    }
    const tail = { segment, offset: begun.bytes.length, next: frame + 2, chain: begun.chain }
    // Among objects nobody tells the control file of a newer list.
    const sealed = sealedControl(evidence.uuid, tail, this.#objects ? 0 : directory)
    await this.#writeControl(
      { ...sealed, sequence: evidence.control?.sequence ?? 0 },
      evidence.control === undefined ? 'lost' : evidence.control.state,
      page,
      {},
    )
  }

  /** A segment with one frame that changes nothing: the repair's own number. */
  #segment(uuid: Uint8Array, segment: number, number: number): { bytes: Uint8Array; chain: number } {
    const salt = new Uint8Array(8)
    this.#settings.random(salt)
    const createdMs = this.#settings.now()
    const out = new ByteWriter()
    out.bytes(
      writeSegmentHeader({ uuid, salt, segment, firstFrame: number, lengthBefore: 0, chainBefore: 0, createdMs }),
    )
    const bits = this.#objects ? FRAME_END : 0
    const frame = { unflushed: number, bits, parts: 0, before: 0, tables: [], payload: [] }
    const chain = writeFrame(out, { salt, number }, frame)
    return { bytes: out.finish(), chain }
  }

  /** The control file alone: whoever closed the index meanwhile knows better. */
  async controlOnly(control: Control, before: string, page: RepairRecord[]): Promise<void> {
    await this.copy(['control'])
    await this.#writeControl(control, before, page, this.#control)
  }

  /** Both slots say this. */
  async #writeControl(
    control: Control,
    before: string,
    page: RepairRecord[],
    condition: FsWriteOptions,
  ): Promise<void> {
    const file = `${this.#prefix}control`
    const after = control.state === 'open' ? 'open' : `sealed after frame ${control.lastFrame}`
    page.push(record('changed', file, 'control', before, after, 'written anew'))
    if (this.#dryRun) return
    const bytes = writeControlFile({ ...control, sequence: control.sequence + 1 })
    await this.#fs.writeFile(file, bytes, condition)
    await this.#fs.syncDirectory(this.#prefix.slice(0, -1))
  }

  /** Copies files, those that are there, to a directory of their own. */
  async copy(files: readonly string[]): Promise<void> {
    if (this.#dryRun) return
    const fs = this.#fs
    const stamp = new Date(this.#settings.now()).toISOString().replace(/[:.]/g, '-')
    let to = `${this.#prefix}repair-${stamp}`
    for (let n = 2; await this.#isUsed(to); n++) to = `${this.#prefix}repair-${stamp}-${n}`
    for (const file of files) {
      const bytes = await readIfThere(fs, `${this.#prefix}${file}`)
      if (bytes === undefined) continue
      const copy = `${to}/${file}`
      await fs.makeDirectory(copy.slice(0, copy.lastIndexOf('/')))
      await fs.writeFile(copy, bytes)
    }
    await fs.syncDirectory(this.#prefix.slice(0, -1))
  }

  async #isUsed(directory: string): Promise<boolean> {
    for await (const page of this.#fs.list(directory)) if (page.length > 0) return true
    return (await this.#fs.stat(directory)) !== undefined
  }

  async #remove(file: string): Promise<void> {
    try {
      await this.#fs.remove(`${this.#prefix}${file}`)
    } catch (error) {
      if (!(error instanceof FsError) || error.code !== 'FS_NOT_FOUND') throw error
    }
    await this.#fs.syncDirectory(`${this.#prefix}${segmentOfName(file.slice(4)) > 0 ? 'log' : 'tables'}`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#snapshots?.[Symbol.asyncDispose]()
  }
}
