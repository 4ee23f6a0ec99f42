import type { ThreadNode } from '@mailstead/imap'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type ReferenceMessages, threadByReferences, threadBySubject } from './thread.ts'

const numRuns =
  process.env['MAILSTEAD_DEPTH'] === 'soak' ? 50_000 : process.env['MAILSTEAD_DEPTH'] === 'ci' ? 5000 : 500

interface Message {
  readonly id: string
  readonly references?: readonly string[]
  readonly subject?: string
  readonly reply?: boolean
  readonly date?: number
}

function messagesOf(list: readonly Message[]): ReferenceMessages {
  return {
    ids: Uint32Array.from(list, (_, n) => n + 1),
    dates: Float64Array.from(list, ({ date }, n) => date ?? n),
    subjects: list.map(({ subject, id }) => subject ?? id),
    replies: Uint8Array.from(list, ({ reply }) => (reply === true ? 1 : 0)),
    messageIds: list.map(({ id }) => id),
    references: list.map(({ references }) => references ?? []),
  }
}
function write(nodes: readonly ThreadNode[]): string {
  return nodes.map((node) => `(${one(node)})`).join('')
}
function one({ id, children }: ThreadNode): string {
  const parts = id === 0 ? [] : [String(id)]
  if (children.length === 1 && id !== 0) return [...parts, one(children[0]!)].join(' ')
  return [...parts, ...children.map((child) => `(${one(child)})`)].join(' ')
}
const byReferences = (...list: Message[]): string => write(threadByReferences(messagesOf(list)))

describe('THREAD=REFERENCES', () => {
  test('replies hang below what they answer', () => {
    expect(byReferences({ id: 'a' }, { id: 'b', references: ['a'] }, { id: 'c', references: ['a', 'b'] })).toBe(
      '(1 2 3)',
    )
  })
  test('the order of arrival does not matter', () => {
    expect(
      byReferences({ id: 'c', references: ['a', 'b'] }, { id: 'b', references: ['a'] }, { id: 'a', date: -1 }),
    ).toBe('(3 2 1)')
  })
  test('a missing message keeps its answers together', () => {
    expect(byReferences({ id: 'b', references: ['a'] }, { id: 'c', references: ['a'] })).toBe(
      '((1)(2))'.replace(')(', ') ('),
    )
    expect(byReferences({ id: 'c', references: ['a', 'b'] })).toBe('(1)')
  })
  test('roots of one subject are one thread, the reply below the original', () => {
    expect(byReferences({ id: 'a', subject: 'S' }, { id: 'b', subject: 'S', reply: true })).toBe('(1 2)')
    expect(byReferences({ id: 'a', subject: 'S', reply: true }, { id: 'b', subject: 'S' })).toBe('(2 1)')
    expect(byReferences({ id: 'a', subject: 'S' }, { id: 'b', subject: 'S' })).toBe('((1) (2))')
    expect(byReferences({ id: 'a', subject: '' }, { id: 'b', subject: '' })).toBe('(1)(2)')
  })
  test('a message that names itself, or loops, is threaded all the same', () => {
    expect(byReferences({ id: 'a', references: ['a'] })).toBe('(1)')
    expect(byReferences({ id: 'a', references: ['b'] }, { id: 'b', references: ['a'] })).toMatch(/^\((?:1 2|2 1)\)$/)
  })
  test('of two messages with one id the first has it', () => {
    expect(byReferences({ id: 'a' }, { id: 'a', subject: 'other' }, { id: 'c', references: ['a'] })).toBe('(1 3)(2)')
  })
  test('a chain of a hundred thousand is no deeper than memory', () => {
    const list = Array.from({ length: 100_000 }, (_, n) => ({ id: `m${n}`, references: n === 0 ? [] : [`m${n - 1}`] }))
    let node: ThreadNode | undefined = threadByReferences(messagesOf(list))[0]
    let depth = 0
    for (; node !== undefined; node = node.children[0]) depth++
    expect(depth).toBe(100_000)
  })
})

test('THREAD=ORDEREDSUBJECT: the first of a subject is the parent of all others', () => {
  const messages = messagesOf([
    { id: 'a', subject: 'S', date: 5 },
    { id: 'b', subject: 'T', date: 1 },
    { id: 'c', subject: 'S', date: 3 },
    { id: 'd', subject: 'S', date: 9 },
  ])
  expect(write(threadBySubject(messages))).toBe('(2)(3 (1) (4))')
})

test('whatever headers say, every message is in the answer exactly once', () => {
  const id = fc.constantFrom('', 'a', 'b', 'c', 'd', 'e')
  const message = fc.record({
    id,
    references: fc.array(fc.constantFrom('a', 'b', 'c', 'd', 'e', 'x', 'y'), { maxLength: 4 }),
    subject: fc.constantFrom('', 'S', 'T'),
    reply: fc.boolean(),
    date: fc.integer({ min: 0, max: 3 }),
  })
  fc.assert(
    fc.property(fc.array(message, { maxLength: 12 }), (list) => {
      for (const nodes of [threadByReferences(messagesOf(list)), threadBySubject(messagesOf(list))]) {
        const seen: number[] = []
        const visit = (node: ThreadNode): void => {
          if (node.id !== 0) seen.push(node.id)
          else expect(node.children.length).toBeGreaterThan(1)
          node.children.forEach(visit)
        }
        nodes.forEach(visit)
        expect(seen.sort((a, b) => a - b)).toEqual(list.map((_, n) => n + 1))
      }
    }),
    { numRuns },
  )
})
