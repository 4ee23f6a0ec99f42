/**
 * What a server has promised, and what it may or may not have done when it was killed.
 *
 * INVARIANTS
 *   1. Every message has one owner among the workers, and a worker has one command under way; so at most the last command
 *      of each worker is uncertain.
 *   2. What is uncertain is written down before the command is sent, what is certain once its reply is read.
 *   3. A message is known by the number in its X-Unique header; its bytes follow from the number.
 */
import { plainMessage } from '../support/made-mail.ts'

export interface Kept {
  readonly unique: number
  /** Sorted, joined by spaces. */
  flags: string
  owner: number
  /** The flags that a command under way would give it. */
  maybeFlags?: string | undefined
  /** An expunge of it is under way. */
  maybeGone?: boolean
  /** A move of it to this mailbox is under way: it is in one of the two. */
  maybeMoved?: Box | undefined
}

export class Box {
  readonly user: string
  readonly name: string
  uidValidity: number | undefined
  uidNext = 1
  readonly messages: Map<number, Kept> = new Map()
  /** UIDs that were expunged or moved away: never to be seen again. */
  readonly gone: Set<number> = new Set()
  /** Acknowledged by LMTP, which tells no UID: each must be found. */
  mustAppear: number[] = []
  /** Not acknowledged: each may be found once. */
  mayAppear: number[] = []

  constructor(user: string, name: string) {
    this.user = user
    this.name = name
  }
}

/** The bytes of message `unique`: from 300 bytes to 30 kB. */
export function messageOf(unique: number): Buffer {
  const size = unique % 13 === 0 ? 30_000 : 300 + ((unique * 37) % 2500)
  return Buffer.concat([Buffer.from(`X-Unique: ${unique}\r\n`), plainMessage(unique, { bodyBytes: size })])
}

export function uniqueOf(bytes: Buffer): number {
  const found = /^X-Unique: (\d+)\r$/m.exec(bytes.toString('latin1', 0, Math.min(bytes.length, 4096)))
  return found === null ? -1 : Number(found[1])
}

export function without<T>(list: T[], element: T): void {
  const at = list.indexOf(element)
  if (at >= 0) list.splice(at, 1)
}

export interface Seen {
  readonly uidValidity: number
  readonly uidNext: number
  readonly messages: ReadonlyMap<number, { readonly bytes: Buffer; readonly flags: string }>
}

/** Compares a mailbox with what was promised of it, and takes over what it found. Returns what is wrong. */
export function settle(box: Box, seen: Seen, workers: number): readonly string[] {
  const wrong: string[] = []
  const say = (text: string): void => {
    wrong.push(`${box.user} ${box.name}: ${text}`)
  }
  if (box.uidValidity !== undefined && seen.uidValidity !== box.uidValidity) {
    say(`UIDVALIDITY ${seen.uidValidity}, was ${box.uidValidity}`)
  }
  box.uidValidity = seen.uidValidity
  if (seen.uidNext < box.uidNext) say(`UIDNEXT ${seen.uidNext}, was ${box.uidNext}`)
  const seenBefore = box.uidNext
  box.uidNext = seen.uidNext
  for (const [uid, kept] of box.messages) {
    const found = seen.messages.get(uid)
    if (found === undefined) {
      if (kept.maybeGone !== true && kept.maybeMoved === undefined) say(`message ${kept.unique} (UID ${uid}) is lost`)
      box.messages.delete(uid)
      box.gone.add(uid)
      continue
    }
    const problem = damage(found.bytes, kept.unique)
    if (problem !== undefined) say(`message ${kept.unique} (UID ${uid}) ${problem}`)
    if (found.flags !== kept.flags && found.flags !== kept.maybeFlags) {
      say(
        `message ${kept.unique} (UID ${uid}) has flags (${found.flags}), not (${kept.flags})${kept.maybeFlags === undefined ? '' : ` nor (${kept.maybeFlags})`}`,
      )
    }
    if (kept.maybeMoved !== undefined) without(kept.maybeMoved.mayAppear, kept.unique)
    box.messages.set(uid, { unique: kept.unique, flags: found.flags, owner: kept.owner })
  }
  for (const [uid, { bytes, flags }] of seen.messages) {
    if (box.gone.has(uid)) say(`UID ${uid} was expunged and is back`)
    if (box.messages.has(uid)) continue
    const unique = uniqueOf(bytes)
    if (uid < seenBefore && box.mustAppear.length + box.mayAppear.length === 0)
      say(`UID ${uid} appeared below UIDNEXT ${seenBefore}`)
    if (box.mustAppear.includes(unique)) without(box.mustAppear, unique)
    else if (box.mayAppear.includes(unique)) without(box.mayAppear, unique)
    else say(`UID ${uid} is message ${unique}, which nobody put there, or which is there twice`)
    const problem = damage(bytes, unique)
    if (problem !== undefined) say(`message ${unique} (UID ${uid}) ${problem}`)
    box.messages.set(uid, { unique, flags, owner: uid % workers })
  }
  for (const unique of box.mustAppear) say(`message ${unique} was acknowledged by LMTP and is lost`)
  box.mustAppear = []
  box.mayAppear = []
  return wrong
}

/** A message that is moved is in exactly one of the two mailboxes. To be asked before any of them is settled. */
export function movesHalfDone(source: Box, seen: Seen, seenOf: (box: Box) => Seen | undefined): readonly string[] {
  const wrong: string[] = []
  for (const [uid, { unique, maybeMoved }] of source.messages) {
    if (maybeMoved === undefined) continue
    const target = seenOf(maybeMoved)
    const there = [...(target?.messages ?? [])].some(
      ([at, { bytes }]) => !maybeMoved.messages.has(at) && uniqueOf(bytes) === unique,
    )
    const here = seen.messages.has(uid)
    if (here === there)
      wrong.push(
        `${source.user}: message ${unique} is in ${here ? 'both' : 'neither'} of ${source.name} and ${maybeMoved.name}`,
      )
  }
  return wrong
}

/** Delivered messages have trace headers in front; nothing else may differ. */
function damage(bytes: Buffer, unique: number): string | undefined {
  if (unique < 0) return 'has no number'
  const whole = messageOf(unique)
  if (bytes.length < whole.length || !bytes.subarray(bytes.length - whole.length).equals(whole))
    return 'has other bytes'
  const prefix = bytes.toString('latin1', 0, bytes.length - whole.length)
  return /^(?:(?:Return-Path|Delivered-To|Received):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*$/i.test(prefix)
    ? undefined
    : 'has something in front'
}
