/**
 * Which derived fields a mailbox keeps: yes, temp or no for each, as they are used.
 *
 *   no    not kept. Whoever asks for it makes it temp.
 *   temp  kept of messages that came in the last RECENT_DAYS. Whoever asks for it of an older one, as a client does that
 *         keeps nothing itself, makes it yes.
 *   yes   kept of all messages.
 *
 * What is not used decays: yes becomes temp after DECAY_DAYS, and either becomes no after DROP_DAYS. A forced decision
 * does neither. Uses are known by the day, so a field that is used all day changes nothing after its first use.
 *
 * Which messages are recent is told by marks: the first UID that did not exist on a day when the mailbox was used.
 *
 * FORMAT   The value of the field "decisions" of a record of the file itself (`cache-record.ts`):
 *          offset  size  field
 *          0       4     dropped  u32le  temp fields of messages below this UID were dropped by a compaction
 *          4       2     n        u16le  fields, at most DECISIONS_MAX
 *          6       2     m        u16le  marks, at most MARKS_MAX
 *          8       8 m   marks           day u32le (since 1970), uid u32le; days ascending
 *          …             fields          day u32le of the last use, decision u8 (0 no, 1 temp, 2 yes), forced u8 (0 or 1),
 *                                        length u16le of the name, name
 *
 * INVARIANTS
 *   1. The newest decisions of a file count, whole. Who writes some has taken in those before, and puts what it noticed
 *      itself on top of them; whoever finds that others wrote at the same time does so again.
 *   2. Everything here follows from what was asked and the clock: no file, no timer.
 */
import { CACHE_FIELDS_MAX, CACHE_NAME_MAX, fieldKey } from './cache-record.ts'
import type { CacheDecision } from './contract.ts'

export const DAY_MS = 86_400_000
/** Must not change: on disk. */
export const DECISIONS_KEY: number = fieldKey('decisions')
/** Messages are recent for this long. */
export const RECENT_DAYS = 7
/** Without use for this long, yes becomes temp. */
export const DECAY_DAYS = 30
/** Without use for this long, any decision becomes no. */
export const DROP_DAYS = 60
/** Fields of one mailbox that are remembered; when there are more, the one longest unused is forgotten. */
export const DECISIONS_MAX: number = CACHE_FIELDS_MAX
/** One for each recent day, and the newest of those before. */
const MARKS_MAX: number = RECENT_DAYS + 1
/** Must not change: on disk. */
const DECISIONS: readonly CacheDecision[] = ['no', 'temp', 'yes']
/** What is decided of a field that no default names. */
const UNNAMED: CacheDecision = 'temp'
const FIXED = 8

export interface FieldDecision {
  readonly decision: CacheDecision
  readonly forced: boolean
  /** Day of the last use, or of the decision if there was none. */
  readonly usedDay: number
}

/** What has become of a decision by `today`. */
export function decayed({ decision, forced, usedDay }: FieldDecision, today: number): CacheDecision {
  if (forced || decision === 'no') return decision
  const idle = today - usedDay
  if (idle >= DROP_DAYS) return 'no'
  return idle >= DECAY_DAYS ? 'temp' : decision
}

interface Mark {
  readonly day: number
  readonly uid: number
}
export interface Decided {
  readonly dropped: number
  readonly marks: readonly Mark[]
  readonly fields: ReadonlyMap<string, FieldDecision>
}

export function encodeDecisions({ dropped, marks, fields }: Decided): Buffer {
  const names = [...fields.keys()].map((name) => Buffer.from(name))
  const size = FIXED + 8 * marks.length + names.reduce((sum, name) => sum + 8 + name.length, 0)
  const out = Buffer.allocUnsafe(size)
  out.writeUInt32LE(dropped, 0)
  out.writeUInt16LE(fields.size, 4)
  out.writeUInt16LE(marks.length, 6)
  let p = FIXED
  for (const { day, uid } of marks) {
    out.writeUInt32LE(day, p)
    out.writeUInt32LE(uid, p + 4)
    p += 8
  }
  let next = 0
  for (const { decision, forced, usedDay } of fields.values()) {
    const name = names[next++]!
    out.writeUInt32LE(usedDay, p)
    out.writeUInt8(DECISIONS.indexOf(decision), p + 4)
    out.writeUInt8(forced ? 1 : 0, p + 5)
    out.writeUInt16LE(name.length, p + 6)
    out.set(name, p + 8)
    p += 8 + name.length
  }
  return out
}

/** Undefined if these are no decisions. */
export function decodeDecisions(value: Uint8Array): Decided | undefined {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.length)
  if (bytes.length < FIXED) return undefined
  const count = bytes.readUInt16LE(4)
  const marksCount = bytes.readUInt16LE(6)
  if (count > DECISIONS_MAX || marksCount > MARKS_MAX || bytes.length < FIXED + 8 * marksCount) return undefined
  const marks: Mark[] = []
  let p = FIXED
  for (; marks.length < marksCount; p += 8) {
    const day = bytes.readUInt32LE(p)
    if (day <= (marks.at(-1)?.day ?? -1)) return undefined
    marks.push({ day, uid: bytes.readUInt32LE(p + 4) })
  }
  const fields = new Map<string, FieldDecision>()
  for (let i = 0; i < count; i++) {
    if (p + 8 > bytes.length) return undefined
    const decision = DECISIONS[bytes[p + 4]!]
    const forced = bytes[p + 5]!
    const end = p + 8 + bytes.readUInt16LE(p + 6)
    if (decision === undefined || forced > 1 || end > bytes.length || end - p - 8 > CACHE_NAME_MAX) return undefined
    fields.set(bytes.toString('utf8', p + 8, end), { decision, forced: forced === 1, usedDay: bytes.readUInt32LE(p) })
    p = end
  }
  return p === bytes.length && fields.size === count ? { dropped: bytes.readUInt32LE(0), marks, fields } : undefined
}

/** What this process noticed of a field. */
interface Noticed {
  known: boolean
  used: boolean
  old: boolean
  /** 'free': no longer forced. */
  forced: CacheDecision | 'free' | undefined
}

/** What was written, and may be lost. */
export interface Unsure {
  readonly size: number
}

/** `newer`: what `one` says of being forced is later than what is there. */
function mergeNoticed(into: Map<string, Noticed>, name: string, one: Noticed, newer = false): void {
  const there = into.get(name)
  if (there === undefined) {
    into.set(name, { ...one })
    return
  }
  there.known ||= one.known
  there.used ||= one.used
  there.old ||= one.old
  there.forced = newer ? (one.forced ?? there.forced) : (there.forced ?? one.forced)
}

export interface DecisionsOptions {
  /** Where fields begin. Others begin as temp when somebody writes or asks for them. */
  readonly defaults: Readonly<Record<string, CacheDecision>>
  /** In milliseconds since the epoch. */
  readonly now: () => number
}

export class CacheDecisions {
  readonly #defaults: Readonly<Record<string, CacheDecision>>
  readonly #now: () => number
  #fields = new Map<string, FieldDecision>()
  #marks: readonly Mark[] = []
  #dropped = 0
  /** What no file has yet. */
  #noticed = new Map<string, Noticed>()
  /** What was written, but perhaps to a file that somebody replaces, or after others wrote who did not know of it. */
  #unsure = new Map<string, Noticed>()
  /** The newest file does not have all of this. */
  changed = false

  constructor({ defaults, now }: DecisionsOptions) {
    this.#defaults = defaults
    this.#now = now
    this.#addDefaults()
  }

  get today(): number {
    return Math.max(0, Math.floor(this.#now() / DAY_MS))
  }

  /** Every field that something is known of, with what has become of its decision by now. */
  *[Symbol.iterator](): Generator<[name: string, field: FieldDecision]> {
    const { today } = this
    for (const [name, field] of this.#fields) yield [name, { ...field, decision: decayed(field, today) }]
  }

  decision(name: string): CacheDecision {
    const field = this.#fields.get(name)
    return field === undefined ? (this.#defaults[name] ?? UNNAMED) : decayed(field, this.today)
  }

  /** Messages below this UID came more than RECENT_DAYS ago. */
  get oldBelow(): number {
    const last = this.today - RECENT_DAYS
    let uid = 0
    for (const mark of this.#marks) if (mark.day <= last) ({ uid } = mark)
    return uid
  }

  /** Below this UID, temp fields were dropped already. */
  get dropped(): number {
    return this.#dropped
  }
  set dropped(uid: number) {
    this.#dropped = uid
    this.changed = true
  }

  /** Whether the field of the message with this UID is kept. */
  keeps(name: string, uid: number): boolean {
    const decision = this.decision(name)
    return decision === 'yes' || (decision === 'temp' && uid >= this.oldBelow)
  }

  /** Somebody gives values of it, or asks for them. */
  know(name: string): void {
    if (this.#fields.has(name)) return
    this.#notice(name).known = true
    this.#set(name, { decision: UNNAMED, forced: false, usedDay: this.today })
  }

  /** Somebody asks for it. The mailbox's next UID is `uidNext`. */
  use(name: string, uidNext: number): void {
    const { today } = this
    this.#mark(today, uidNext)
    const field = this.#fields.get(name)
    if (field?.usedDay === today && (field.forced || field.decision !== 'no')) return
    const before = this.decision(name)
    this.#notice(name).used = true
    const forced = field?.forced ?? false
    this.#set(name, { decision: before === 'no' && !forced ? 'temp' : before, forced, usedDay: today })
  }

  /** It is asked for of a message that is not recent. */
  useOld(name: string): void {
    const field = this.#fields.get(name)
    if (field === undefined || field.forced || this.decision(name) !== 'temp') return
    this.#notice(name).old = true
    this.#set(name, { decision: 'yes', forced: false, usedDay: this.today })
  }

  /** Decides, whatever is used; undefined: from here on, use decides again. */
  force(name: string, decision: CacheDecision | undefined): void {
    this.#notice(name).forced = decision ?? 'free'
    const now = decision ?? this.decision(name)
    this.#set(name, { decision: now, forced: decision !== undefined, usedDay: this.today })
  }

  /** Takes in what a file says. What this process noticed, and has not written, comes on top. */
  adopt({ dropped, marks, fields }: Decided): void {
    this.#fields = new Map(fields)
    this.#dropped = Math.max(this.#dropped, dropped)
    const mine = this.#marks.at(-1)
    this.#marks = marks
    this.changed = false
    this.#addDefaults()
    if (mine !== undefined) this.#mark(mine.day, mine.uid)
    for (const [name, { known, used, old, forced }] of this.#noticed) {
      if (known) this.know(name)
      if (forced !== undefined) this.force(name, forced === 'free' ? undefined : forced)
      if (used) this.#useAgain(name)
      if (old) this.useOld(name)
    }
  }

  /** Somebody decided for good, and no file has it. */
  get decided(): boolean {
    for (const { forced } of this.#noticed.values()) if (forced !== undefined) return true
    return false
  }

  /** What was written is written again: the file does not have it, or is no longer the one that counts. */
  again(unsure: Unsure = this.takeUnsure()): void {
    for (const [name, one] of unsure as ReadonlyMap<string, Noticed>) mergeNoticed(this.#noticed, name, one)
    if (unsure.size > 0) this.changed = true
  }

  /** What was written since this was asked last, to be given to `again` if that turns out to be lost. */
  takeUnsure(): Unsure {
    const unsure = this.#unsure
    this.#unsure = new Map()
    return unsure
  }

  get hasUnsure(): boolean {
    return this.#unsure.size > 0
  }

  /** For the file. From here on this counts as written. */
  encode(): Buffer {
    for (const [name, noticed] of this.#noticed) mergeNoticed(this.#unsure, name, noticed, true)
    this.#noticed = new Map()
    this.changed = false
    return encodeDecisions({ dropped: this.#dropped, marks: this.#marks, fields: this.#fields })
  }

  #useAgain(name: string): void {
    const forced = this.#fields.get(name)?.forced ?? false
    const before = this.decision(name)
    this.#set(name, { decision: before === 'no' && !forced ? 'temp' : before, forced, usedDay: this.today })
  }

  #addDefaults(): void {
    const { today } = this
    for (const [name, decision] of Object.entries(this.#defaults))
      if (!this.#fields.has(name)) this.#set(name, { decision, forced: false, usedDay: today })
  }

  #notice(name: string): Noticed {
    let noticed = this.#noticed.get(name)
    if (noticed === undefined) {
      noticed = { known: false, used: false, old: false, forced: undefined }
      this.#noticed.set(name, noticed)
    }
    return noticed
  }

  #set(name: string, field: FieldDecision): void {
    if (!this.#fields.has(name) && this.#fields.size === DECISIONS_MAX) {
      let oldest: string | undefined
      for (const [other, { forced, usedDay }] of this.#fields)
        if (!forced && usedDay < (this.#fields.get(oldest ?? '')?.usedDay ?? Number.POSITIVE_INFINITY)) oldest = other
      if (oldest === undefined) return
      this.#fields.delete(oldest)
    }
    this.#fields.set(name, field)
    this.changed = true
  }

  #mark(day: number, uid: number): void {
    if (day <= (this.#marks.at(-1)?.day ?? -1)) return
    const last = day - RECENT_DAYS
    // The newest of those that are not recent says where the recent ones begin; those before it say nothing more.
    const from = this.#marks.findLastIndex((mark) => mark.day <= last)
    this.#marks = [...this.#marks.slice(Math.max(0, from)), { day, uid }].slice(-MARKS_MAX)
    this.changed = true
  }
}
