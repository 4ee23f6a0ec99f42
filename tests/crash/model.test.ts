/** The judge of the crash loop must be able to say no. */
import { expect, test } from 'vitest'
import { Box, messageOf, movesHalfDone, type Seen, settle } from './model.ts'

interface Row {
  readonly uid: number
  readonly unique: number
  readonly flags?: string
  readonly bytes?: Buffer
}

function seen(rows: readonly Row[], uidNext = 10, uidValidity = 7): Seen {
  const messages = new Map(
    rows.map(({ uid, unique, flags = '', bytes }) => [uid, { bytes: bytes ?? messageOf(unique), flags }]),
  )
  return { uidNext, uidValidity, messages }
}

function boxWith(...rows: readonly Row[]): Box {
  const box = new Box('user1', 'INBOX')
  settle(box, seen([]), 1)
  for (const { uid, unique, flags = '' } of rows) box.messages.set(uid, { unique, flags, owner: 0 })
  return box
}

test('what is as it was promised is not complained of', () => {
  const box = boxWith({ uid: 1, unique: 1, flags: '\\Seen' }, { uid: 2, unique: 2 })
  box.mustAppear = [3]
  box.mayAppear = [4, 5]
  const traced = Buffer.concat([
    Buffer.from('Return-Path: <a@b>\r\nReceived: from x\r\n\tby y; today\r\n'),
    messageOf(3),
  ])
  const rows = [
    { uid: 1, unique: 1, flags: '\\Seen' },
    { uid: 2, unique: 2 },
    { uid: 10, unique: 3, bytes: traced },
    { uid: 11, unique: 5 },
  ]
  expect(settle(box, seen(rows, 12), 1)).toEqual([])
  expect([...box.messages.keys()]).toEqual([1, 2, 10, 11])
})

test('a lost, changed or doubled message, lost flags, and UIDs that come back are all noticed', () => {
  const first = { uid: 1, unique: 1, flags: '\\Seen' }
  expect(settle(boxWith(first), seen([]), 1)).toHaveLength(1)
  expect(settle(boxWith(first), seen([{ ...first, flags: '' }]), 1)).toHaveLength(1)
  expect(
    settle(boxWith(first), seen([{ ...first, bytes: Buffer.concat([messageOf(1), Buffer.from('x')]) }]), 1),
  ).toHaveLength(1)
  const flipped = messageOf(1)
  flipped[200]! ^= 1
  expect(settle(boxWith(first), seen([{ ...first, bytes: flipped }]), 1)).toHaveLength(1)
  expect(settle(boxWith(first), seen([first, { uid: 12, unique: 1 }], 13), 1)).toHaveLength(1)
  expect(settle(boxWith(first), seen([first], 9), 1)).toHaveLength(1)
  expect(settle(boxWith(first), seen([first], 10, 8), 1)).toHaveLength(1)
  const delivered = boxWith(first)
  delivered.mustAppear = [9]
  expect(settle(delivered, seen([first]), 1)).toHaveLength(1)
  const expunged = boxWith(first)
  expunged.gone.add(5)
  expunged.mayAppear = [5]
  expect(settle(expunged, seen([first, { uid: 5, unique: 5 }]), 1)).toHaveLength(1)
})

test('what was under way may have happened or not, but nothing else', () => {
  const box = boxWith({ uid: 1, unique: 1, flags: '\\Seen' }, { uid: 2, unique: 2 })
  box.messages.get(1)!.maybeFlags = '\\Flagged'
  box.messages.get(2)!.maybeGone = true
  expect(settle(box, seen([{ uid: 1, unique: 1, flags: '\\Flagged' }]), 1)).toEqual([])
  const other = boxWith({ uid: 1, unique: 1, flags: '\\Seen' })
  other.messages.get(1)!.maybeFlags = '\\Flagged'
  expect(settle(other, seen([{ uid: 1, unique: 1, flags: '\\Draft' }]), 1)).toHaveLength(1)
})

test('a message that was being moved is in one place', () => {
  const source = boxWith({ uid: 1, unique: 1 })
  const target = new Box('user1', 'Other')
  source.messages.get(1)!.maybeMoved = target
  const here = seen([{ uid: 1, unique: 1 }])
  const there = seen([{ uid: 4, unique: 1 }])
  const nowhere = seen([])
  expect(movesHalfDone(source, here, () => nowhere)).toEqual([])
  expect(movesHalfDone(source, nowhere, () => there)).toEqual([])
  expect(movesHalfDone(source, here, () => there)).toHaveLength(1)
  expect(movesHalfDone(source, nowhere, () => nowhere)).toHaveLength(1)
})
