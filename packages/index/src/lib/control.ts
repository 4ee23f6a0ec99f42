/**
 * The control file: whether the log was closed, and where it then ended.
 *
 * FORMAT   Two slots of 512 bytes; the newer valid one counts. A slot:
 *          0    8   magic          "MSindCTL"
 *          8    4   version        u32le  see format-version.ts
 *          12   4   state          u32le  0 open, 1 sealed
 *          16   8   sequence       u64le  slot = sequence modulo 2
 *          24   16  index UUID
 *          40   8   segment        u64le  ┐
 *          48   8   length         u64le  │ where the log ended when it was sealed;
 *          56   8   last frame     u64le  │ 0 while it is open
 *          64   4   chain          u32le  ┘
 *          68   4   directory      u32le  the checksum that ends `tables/directory`, as it was last written; 0 if there is none
 *          72   436 reserved       0
 *          508  4   checksum       CRC-32 of the 508 bytes before
 *
 * INVARIANTS
 *   1. Only the holder of the commit lock writes, the older slot only, and flushes it before it goes on.
 *   2. `open` is flushed before the first append after a seal; `sealed` is written after the log was flushed.
 *      So if the newer slot says sealed, whatever the log lacks was lost, not torn.
 *   3. `sealed` is written to both slots, one after the other: damage to one leaves the seal.
 */
import { crc32 } from '@mailstead/bytes'
import { FsError } from '@mailstead/fs'
import { FORMAT_VERSION, isKnownVersion } from './format-version.ts'
import type { LogTail } from './log-medium.ts'
import { readU64, writeU64 } from './segment.ts'

// must not change: on disk
const MAGIC = Buffer.from('MSindCTL', 'latin1')
export const CONTROL_SLOT = 512
export const CONTROL_LENGTH: number = 2 * CONTROL_SLOT

export interface Control {
  readonly state: 'open' | 'sealed'
  readonly sequence: number
  readonly uuid: Uint8Array
  readonly segment: number
  readonly length: number
  readonly lastFrame: number
  readonly chain: number
  readonly directory: number
}

/** The bytes of one slot; it belongs at `controlOffset`. */
export function writeControl(control: Control): Uint8Array {
  const out = Buffer.alloc(CONTROL_SLOT)
  MAGIC.copy(out)
  out.writeUInt32LE(FORMAT_VERSION, 8)
  out.writeUInt32LE(control.state === 'sealed' ? 1 : 0, 12)
  writeU64(out, 16, control.sequence)
  out.set(control.uuid, 24)
  writeU64(out, 40, control.segment)
  writeU64(out, 48, control.length)
  writeU64(out, 56, control.lastFrame)
  out.writeUInt32LE(control.chain, 64)
  out.writeUInt32LE(control.directory, 68)
  out.writeUInt32LE(crc32(out.subarray(0, CONTROL_SLOT - 4)), CONTROL_SLOT - 4)
  return new Uint8Array(out.buffer, out.byteOffset, out.length)
}

export function controlOffset(control: Control): number {
  return (control.sequence % 2) * CONTROL_SLOT
}

/** The slot at `at`, of whatever version, if its checksum fits. */
function slotAt(bytes: Uint8Array, at: number): Buffer | undefined {
  if (bytes.length < at + CONTROL_SLOT) return undefined
  const slot = Buffer.from(bytes.buffer, bytes.byteOffset + at, CONTROL_SLOT)
  if (crc32(slot.subarray(0, CONTROL_SLOT - 4)) !== slot.readUInt32LE(CONTROL_SLOT - 4)) return undefined
  return slot.subarray(0, 8).equals(MAGIC) ? slot : undefined
}

/**
 * Whether this build knows what wrote the index: what a later one wrote is not damage, and nothing of it may be repaired.
 * FS_UNSUPPORTED (an FsError) if not. In files every build writes here before it appends; among objects, when it closes.
 */
export function expectKnownVersion(bytes: Uint8Array): void {
  for (const at of [0, CONTROL_SLOT]) {
    const version = slotAt(bytes, at)?.readUInt32LE(8) ?? 0
    if (!isKnownVersion(version))
      throw new FsError(
        'FS_UNSUPPORTED',
        `the index is of version ${version}: this build knows it up to ${FORMAT_VERSION}`,
      )
  }
}

/** Whether a slot tells older builds that this one writes to the index. */
export function saysVersion(bytes: Uint8Array): boolean {
  return [0, CONTROL_SLOT].some((at) => slotAt(bytes, at)?.readUInt32LE(8) === FORMAT_VERSION)
}

/** The valid slot at `at`, if there is one. */
export function readControlSlot(bytes: Uint8Array, at: number): Control | undefined {
  const slot = slotAt(bytes, at)
  if (slot === undefined || !isKnownVersion(slot.readUInt32LE(8)) || slot.readUInt32LE(12) > 1) return undefined
  const sequence = readU64(slot, 16)
  if ((sequence % 2) * CONTROL_SLOT !== at) return undefined
  return {
    state: slot.readUInt32LE(12) === 1 ? 'sealed' : 'open',
    sequence,
    uuid: Uint8Array.from(slot.subarray(24, 40)),
    segment: readU64(slot, 40),
    length: readU64(slot, 48),
    lastFrame: readU64(slot, 56),
    chain: slot.readUInt32LE(64),
    directory: slot.readUInt32LE(68),
  }
}

/** Where the one damaged slot is, if the other one is valid. */
export function damagedSlot(bytes: Uint8Array): number | undefined {
  const [a, b] = [0, CONTROL_SLOT].filter((at) => readControlSlot(bytes, at) === undefined)
  return b === undefined ? a : undefined
}

/** The newer valid slot; undefined if there is none. */
export function readControl(bytes: Uint8Array): Control | undefined {
  const a = readControlSlot(bytes, 0)
  const b = readControlSlot(bytes, CONTROL_SLOT)
  if (a === undefined || b === undefined) return a ?? b
  return a.sequence > b.sequence ? a : b
}

/** Whether both slots are valid and say the same of where the log was sealed. */
export function isSealedTwice(bytes: Uint8Array): boolean {
  const a = readControlSlot(bytes, 0)
  const b = readControlSlot(bytes, CONTROL_SLOT)
  return (
    a?.state === 'sealed' &&
    b?.state === 'sealed' &&
    a.lastFrame === b.lastFrame &&
    a.chain === b.chain &&
    a.directory === b.directory
  )
}

/** What is said of a log that is not sealed. */
export function openControl(uuid: Uint8Array): Control {
  return { state: 'open', sequence: 0, uuid, segment: 0, length: 0, lastFrame: 0, chain: 0, directory: 0 }
}

/** What is said of a log that ends at `tail`. `directory` is the checksum of its list of tables. */
export function sealedControl(
  uuid: Uint8Array,
  tail: Pick<LogTail, 'segment' | 'offset' | 'next' | 'chain'>,
  directory: number,
): Control {
  const { segment, offset, next, chain } = tail
  return { state: 'sealed', sequence: 0, uuid, segment, length: offset, lastFrame: next - 1, chain, directory }
}

/** A whole control file whose two slots say this. */
export function writeControlFile(control: Control): Uint8Array {
  const bytes = new Uint8Array(CONTROL_LENGTH)
  for (const more of [0, 1]) {
    const slot = { ...control, sequence: control.sequence + more }
    bytes.set(writeControl(slot), controlOffset(slot))
  }
  return bytes
}
