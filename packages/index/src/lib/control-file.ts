/**
 * The control file of a log in appended files: read by everybody, written slot by slot by whoever holds the commit lock.
 *
 * What holds:
 *   1. One slot is written at a time, the older one, and flushed before anything else is: a crash tears one at most.
 *   2. A sealed log says so in both slots, so that damage to either leaves a seal. Whoever finds only one of them written
 *      writes the other when it closes.
 *   3. What could not be flushed is written again, to both slots, through another handle.
 */
import { type Fs, FsError, type FsFile } from '@mailstead/fs'
import {
  type Control,
  CONTROL_LENGTH,
  CONTROL_SLOT,
  controlOffset,
  isSealedTwice,
  readControl,
  readControlSlot,
  saysVersion,
  writeControl,
} from './control.ts'
import { readBytes } from './log-reader.ts'

export class ControlFile implements AsyncDisposable {
  readonly #fs: Fs
  readonly #path: string
  readonly #readOnly: boolean
  #file: FsFile | undefined
  #found: Control
  /** Writing it failed: what is read of it may be on no disk. */
  #suspect = false
  /** Neither slot is valid: the next writer makes it anew. */
  #lost = false
  /** Sealed in one slot only: whoever sealed it died before it wrote the other. */
  #half = false

  /** Both slots are of earlier builds. */
  #isOlder = true

  /** `found` is what it said when it was last read, or an open log if it is lost. */
  constructor(fs: Fs, path: string, readOnly: boolean, found: Control) {
    this.#fs = fs
    this.#path = path
    this.#readOnly = readOnly
    this.#found = found
  }

  /** What it said when it was last read. */
  get found(): Control {
    return this.#found
  }

  /** It says so, and what it says is on disk. */
  says(state: Control['state']): boolean {
    return this.#found.state === state && !this.#lost && !this.#suspect
  }

  /** No slot is of this version: builds that know none later may take what is written now for damage. */
  get isOlder(): boolean {
    return this.#isOlder
  }

  /** It says that the log is sealed, but not in both slots. */
  get isHalfSealed(): boolean {
    return this.#half && this.#found.state === 'sealed'
  }

  /** Reads it again: another process may have sealed the log, or opened it. */
  async read(): Promise<Control> {
    try {
      this.#file ??= await this.#fs.open(this.#path, this.#readOnly ? 'read' : 'write')
    } catch (error) {
      // Only a writer makes it anew.
      if (this.#readOnly && error instanceof FsError && error.code === 'FS_NOT_FOUND') return this.#found
      throw error
    }
    const bytes = await readBytes(this.#file, 0, CONTROL_LENGTH)
    const found = readControl(bytes)
    this.#lost = found === undefined
    this.#half = !isSealedTwice(bytes)
    this.#isOlder = !saysVersion(bytes)
    this.#found = found ?? this.#found
    return this.#found
  }

  /** Under the lock: says this from now on. */
  async write(what: Omit<Control, 'sequence'>): Promise<void> {
    try {
      const file = this.#file ?? (await this.#fs.open(this.#path, 'write'))
      this.#file = file
      const bytes = await readBytes(file, 0, CONTROL_LENGTH)
      let control: Control = { ...what, sequence: this.#found.sequence + 1 }
      await file.write(writeControl(control), controlOffset(control))
      // So does a file that is too short, or whose other slot is lost or may be.
      const other = CONTROL_SLOT - controlOffset(control)
      const both = control.state === 'sealed' || this.#suspect || readControlSlot(bytes, other) === undefined
      if (both) {
        await file.sync()
        this.#found = control
        control = { ...control, sequence: control.sequence + 1 }
        await file.write(writeControl(control), other)
      }
      await file.sync()
      this.#found = control
      this.#suspect = false
      this.#half = false
      this.#isOlder = false
    } catch (error) {
      // The kernel may keep what it could not write and say no more of it: it is written again, through another handle.
      const file = this.#file
      this.#file = undefined
      this.#suspect = true
      await file?.[Symbol.asyncDispose]()
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file?.[Symbol.asyncDispose]()
    this.#file = undefined
  }
}
