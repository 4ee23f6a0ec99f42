import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CommandReader, type ReaderLimits } from './reader.ts'

const depth = process.env['MAILSTEAD_DEPTH']
const numRuns = depth === 'soak' ? 100_000 : depth === 'ci' ? 5000 : 400

const limits: ReaderLimits = { lineBytes: 200, literalBytes: 100, commandBytes: 400, swallowBytes: 1000 }

/** Everything the reader says of these chunks, as text. Messages of APPEND are accepted up to 150 bytes. */
function read(chunks: readonly Buffer[], options: { readonly plain?: boolean } = {}): string[] {
  const reader = new CommandReader(limits)
  const said: string[] = []
  let message: string | undefined
  if (options.plain === true) reader.expectLine()
  const drain = (): void => {
    for (let steps = 0; ; steps++) {
      if (steps > 10_000) throw new Error('the reader goes round and round')
      if (message !== undefined) {
        if (reader.literalLeft > 0) {
          const piece = reader.data()
          if (piece === undefined) return
          message += piece.toString('latin1')
        }
        if (reader.literalLeft > 0) continue
        said.push(`message ${message}`)
        message = undefined
      }
      const event = reader.next()
      if (event === 'more') return
      if (event === 'command' || event === 'append-end' || event === 'line')
        said.push(`${event} ${reader.command.toString('latin1')}`)
      else if (event === 'refused') said.push(`refused ${reader.refusedTag} ${reader.refusal}`)
      else if (event === 'append') {
        said.push(`append ${reader.command.toString('latin1')} ${reader.literalSize} ${reader.literalSync}`)
        if (reader.literalSize <= 150) {
          reader.accept()
          message = ''
        } else if (reader.literalSync) reader.abandon()
        else reader.skip()
      } else said.push(event)
      if (event === 'fatal') {
        reader.reset()
        return
      }
    }
  }
  for (const chunk of chunks) {
    reader.push(Buffer.from(chunk))
    drain()
  }
  return said
}
const one = (text: string): string[] => read([Buffer.from(text, 'latin1')])

/** Cuts `bytes` at the given places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b)
  return [0, ...at].map((start, i) => bytes.subarray(start, at[i] ?? bytes.length))
}

describe('command reader', () => {
  test('cuts lines at CRLF, and at LF alone', () => {
    expect(one('a NOOP\r\nb NOOP\nc')).toEqual(['command a NOOP', 'command b NOOP'])
  })
  test('takes literals as part of the command, and asks for synchronizing ones', () => {
    expect(one('a LOGIN {3}\r\nann {2+}\r\n\r\n\r\n')).toEqual(['continue', 'command a LOGIN {3}\r\nann {2+}\r\n\r\n'])
    expect(one('a LOGIN {0}\r\n {0+}\r\n\r\nb X\r\n')).toEqual([
      'continue',
      'command a LOGIN {0}\r\n {0+}\r\n',
      'command b X',
    ])
  })
  test('sees no literal inside quotes, in a word, or behind other things', () => {
    for (const line of ['a X "{3}', 'a X b{3}', 'a X {3} ', 'a X {}', 'a X {x}', 'a X {-1}', '{3}', 'a X "\\"{3}'])
      expect(one(`${line}\r\nb NOOP\r\n`)).toEqual([`command ${line}`, 'command b NOOP'])
  })
  test('knows the messages of APPEND from its mailbox name', () => {
    expect(one('a append {5+}\r\nINBOX (\\Seen) {4}\r\nbody {2+}\r\nxy\r\nb NOOP\r\n')).toEqual([
      'append a append {5+}\r\nINBOX (\\Seen)  4 true',
      'message body',
      'append   2 false',
      'message xy',
      'append-end ',
      'command b NOOP',
    ])
  })
  test('a message that is skipped is not read as a command', () => {
    const body = `b LOGOUT\r\n${'x'.repeat(200)}`
    expect(one(`a APPEND x {${body.length}+}\r\n${body}\r\nc NOOP\r\n`)).toEqual([
      `append a APPEND x  ${body.length} false`,
      'skipped',
      'command c NOOP',
    ])
  })
  test('an unwanted message that is not sent yet ends the command', () => {
    expect(one('a APPEND x {500}\r\nc NOOP\r\n')).toEqual(['append a APPEND x  500 true', 'command c NOOP'])
  })
  test('a line that is too long is swallowed, with the literals it announces, and its tag is known', () => {
    const long = 'y'.repeat(500)
    expect(one(`tag X ${long} {9+}\r\nb LOGOUT\n {3+}\r\n123\r\nc NOOP\r\n`)).toEqual([
      'refused tag The line is too long.',
      'command c NOOP',
    ])
    expect(one(`${long}\r\nc NOOP\r\n`)).toEqual(['refused undefined The line is too long.', 'command c NOOP'])
  })
  test('a literal that is too large is swallowed, or not asked for', () => {
    expect(one(`a LOGIN {101}\r\nb NOOP\r\n`)).toEqual(['refused a The literal is too large.', 'command b NOOP'])
    expect(one(`a LOGIN {101+}\r\n${'\r\n'.padStart(101)} x\r\nb NOOP\r\n`)).toEqual([
      'refused a The literal is too large.',
      'command b NOOP',
    ])
    expect(one('a LOGIN {1001+}\r\n')).toEqual(['fatal'])
    expect(one('a LOGIN {99999999999999999999999}\r\nb NOOP\r\n').at(-1)).toBe('command b NOOP')
  })
  test('literals that are too large together are refused', () => {
    const literal = `{90+}\r\n${'x'.repeat(90)}`
    expect(one(`a X ${literal} ${literal} ${literal} ${literal} ${literal}\r\nb NOOP\r\n`)).toEqual([
      'refused a The literal is too large.',
      'command b NOOP',
    ])
  })
  test('a plain line has no literals', () => {
    expect(read([Buffer.from('DONE {3}\r\nb NOOP\r\n')], { plain: true })).toEqual(['line DONE {3}', 'command b NOOP'])
    expect(read([Buffer.from(`${'z'.repeat(300)} {3+}\r\nb NOOP\r\n`)], { plain: true })).toEqual([
      'refused undefined The line is too long.',
      'command b NOOP',
    ])
  })
  test('what was pushed before a reset is never a command', () => {
    const reader = new CommandReader(limits)
    reader.push(Buffer.from('a STARTTLS\r\nb LOGIN x y\r\nc LO'))
    expect(reader.next()).toBe('command')
    reader.push(Buffer.from('GOUT\r\n'))
    reader.reset()
    expect(reader.next()).toBe('more')
    expect(reader.isIdle).toBe(true)
    reader.push(Buffer.from('d NOOP\r\n'))
    expect(reader.next()).toBe('command')
    expect(reader.command.toString()).toBe('d NOOP')
  })

  const piece = fc.oneof(
    fc.constantFrom(
      'a NOOP\r\n',
      'b LOGIN {3}\r\nann {2+}\r\nxy\r\n',
      'c APPEND x {4+}\r\nbody\r\n',
      ' {',
      '}\r\n',
      '{5+}\r\n',
    ),
    fc.constantFrom(
      ' {120+}\r\n',
      'd APPEND "a" (\\Seen) {140}\r\n',
      'q "',
      '\\',
      '\n',
      '\r',
      ' {200+}\r\n',
      ' {2000+}\r\n',
    ),
    fc.integer({ min: 0, max: 260 }).map((length) => 'z'.repeat(length)),
    fc.string({ maxLength: 12 }),
  )
  test('says the same however the bytes are cut', () => {
    let count = 0
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 14 }), fc.array(fc.nat(), { maxLength: 8 }), (pieces, places) => {
        const bytes = Buffer.from(pieces.join(''), 'latin1')
        const whole = read([bytes])
        // After 'fatal' the rest of its chunk is thrown away.
        if (whole.includes('fatal')) return
        count += whole.length
        expect(read(cut(bytes, places))).toEqual(whole)
      }),
      { numRuns },
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
        const bytes = Buffer.from(pieces.join(''), 'latin1')
        const whole = read([bytes])
        if (whole.includes('fatal')) return
        expect(read(Array.from(bytes, (byte) => Buffer.of(byte)))).toEqual(whole)
      }),
      { numRuns: numRuns / 4 },
    )
    console.log(`${numRuns} streams, ${count} events`)
  })
  test('random bytes are read to the end', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2000 }), (bytes) => {
        read([Buffer.from(bytes)])
      }),
      { numRuns },
    )
  })
})
