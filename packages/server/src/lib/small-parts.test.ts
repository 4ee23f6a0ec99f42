import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { recipientOf } from './address.ts'
import { broadcast } from './broadcast.ts'
import { patternMatcher } from './mailbox-pattern.ts'
import { RecentMarks } from './recent.ts'
import { staticUsers } from './users.ts'

const numRuns =
  process.env['MAILSTEAD_DEPTH'] === 'soak' ? 20_000 : process.env['MAILSTEAD_DEPTH'] === 'ci' ? 2000 : 300

describe('an LMTP recipient', () => {
  const users = staticUsers({ alice: 'x', 'bob@example.org': 'x', 'c+d': 'x', 'odd name': 'x' })
  const name = (address: string): string | undefined => {
    const found = recipientOf(address, users, '+')
    return found === undefined ? undefined : `${found.user.name} ${found.detail ?? '-'}`
  }
  test('is found by its local part, in any case, at any domain', () => {
    expect(name('alice@example.org')).toBe('alice -')
    expect(name('ALICE@elsewhere')).toBe('alice -')
    expect(name('alice')).toBe('alice -')
  })
  test('is found by its whole address where users are named so', () => {
    expect(name('bob@example.org')).toBe('bob@example.org -')
    expect(name('bob@example.com')).toBeUndefined()
    expect(name('bob+Lists/x@example.org')).toBe('bob@example.org Lists/x')
  })
  test('may name a folder after a plus, unless the plus is the user’s own', () => {
    expect(name('alice+Work@example.org')).toBe('alice Work')
    expect(name('alice+@example.org')).toBe('alice ')
    expect(name('c+d@example.org')).toBe('c+d -')
    expect(name('"alice+Two words"@example.org')).toBe('alice Two words')
  })
  test('is nobody otherwise', () => {
    for (const address of ['', '@', '+', '+alice@x', 'nobody@x', 'alic@x']) expect(name(address)).toBeUndefined()
    expect(recipientOf('alice+x@y', users, '')).toBeUndefined()
  })
})

describe('one source for several readers', () => {
  async function* source(chunks: readonly Uint8Array[], fail = false): AsyncGenerator<Uint8Array> {
    for (const chunk of chunks) {
      await Promise.resolve()
      yield chunk
    }
    if (fail) throw new Error('source')
  }
  const collect = async (from: AsyncIterable<Uint8Array>): Promise<string> =>
    Buffer.concat(await Array.fromAsync(from)).toString('latin1')
  const chunks = fc.array(fc.uint8Array({ minLength: 1, maxLength: 5 }), { maxLength: 8 })

  test('all readers get all of it', async () => {
    await fc.assert(
      fc.asyncProperty(chunks, fc.integer({ min: 1, max: 4 }), async (list, n) => {
        const all = await Promise.all(broadcast(source(list), n).map(collect))
        for (const one of all) expect(one).toBe(Buffer.concat(list).toString('latin1'))
      }),
      { numRuns },
    )
  })
  test('a reader that stops holds nobody up', async () => {
    await fc.assert(
      fc.asyncProperty(chunks, fc.integer({ min: 0, max: 5 }), async (list, stopAfter) => {
        const [one, two] = broadcast(source(list), 2)
        const stopping = (async () => {
          let taken = 0
          for await (const _ of one!) if (++taken >= stopAfter) break
        })()
        const [, all] = await Promise.all([stopping, collect(two!)])
        expect(all).toBe(Buffer.concat(list).toString('latin1'))
      }),
      { numRuns },
    )
  })
  test('a failure of the source reaches everybody', async () => {
    const readers = broadcast(source([Buffer.from('x')], true), 3)
    const outcomes = await Promise.allSettled(readers.map(collect))
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected'])
  })
  test('a source that nobody reads to the end is let go', async () => {
    let released = false
    async function* endless(): AsyncGenerator<Uint8Array> {
      try {
        for (;;) yield Buffer.from('x')
      } finally {
        released = true
      }
    }
    await Promise.all(
      broadcast(endless(), 2).map(async (reader) => {
        for await (const _ of reader) break
      }),
    )
    expect(released).toBe(true)
  })
})

describe('LIST patterns', () => {
  const matches = (pattern: string, name: string): boolean => patternMatcher([pattern])(name)
  test('the star matches anything, the percent sign no delimiter', () => {
    expect(matches('*', 'a/b/c')).toBe(true)
    expect(matches('%', 'a')).toBe(true)
    expect(matches('%', 'a/b')).toBe(false)
    expect(matches('a/%', 'a/b')).toBe(true)
    expect(matches('a/%', 'a')).toBe(false)
    expect(matches('%/%', 'a/b')).toBe(true)
    expect(matches('a*c', 'a/b/c')).toBe(true)
    expect(matches('a%c', 'abc')).toBe(true)
  })
  test('INBOX is matched in any case, others only in theirs', () => {
    expect(matches('inbox', 'INBOX')).toBe(true)
    expect(matches('Work', 'work')).toBe(false)
    expect(matches('in%', 'INBOX')).toBe(true)
  })
  test('nothing else in a pattern has a meaning', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (name) => {
        fc.pre(!/[*%]/.test(name))
        expect(matches(name, name)).toBe(true)
        expect(matches(`${name}x`, name)).toBe(false)
      }),
      { numRuns },
    )
  })
  test('a thousand wildcards take no longer than one', () => {
    const from = performance.now()
    expect(matches('*%'.repeat(500), 'a'.repeat(200))).toBe(true)
    expect(matches(`${'*%'.repeat(500)}x`, 'a'.repeat(200))).toBe(false)
    expect(performance.now() - from).toBeLessThan(1000)
  })
})

test('what is recent is recent for whoever claims it first', () => {
  const marks = new RecentMarks([{ guid: 'a', uidNext: 5 }] as never)
  expect(marks.mark('a')).toBe(5)
  expect(marks.claim('a', 8)).toBe(5)
  expect(marks.claim('a', 8)).toBe(8)
  expect(marks.claim('new', 3)).toBe(1)
})
