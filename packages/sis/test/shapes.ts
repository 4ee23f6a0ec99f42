/** Mail with attachments of every shape that base64 is met in, drawn from a generator of numbers in [0, 1). */

export type Random = () => number

const EOLS = ['\n', '\r\n'] as const

function int(random: Random, from: number, to: number): number {
  return from + Math.floor(random() * (to - from + 1))
}
function pick<T>(random: Random, list: readonly T[]): T {
  return list[int(random, 0, list.length - 1)]!
}

/** Mostly short, some longer than several windows. */
function data(random: Random): Buffer {
  const drawn = random() < 0.03 ? int(random, 3000, 60_000) : int(random, 1, 900)
  // Often whole lines of 76 characters.
  const size = random() < 0.3 ? Math.ceil(drawn / 57) * 57 : drawn
  const bytes = Buffer.allocUnsafe(size)
  const kind = random()
  for (let i = 0; i < size; i++) bytes[i] = kind < 0.1 ? 0 : kind < 0.2 ? 0xff : random() * 256
  return bytes
}

/** Characters in lines of `length`, with the last line end or not. */
function lines(chars: string, length: number, end: string, last: boolean): string {
  const list: string[] = []
  for (let at = 0; at < chars.length; at += length) list.push(chars.slice(at, at + length))
  return list.join(end) + (last ? end : '')
}
function lineLength(random: Random): number {
  return random() < 0.3 ? 76 : random() < 0.3 ? int(random, 1, 20) : int(random, 1, 996)
}
function regular(random: Random, chars = data(random).toString('base64')): string {
  return lines(chars, lineLength(random), pick(random, EOLS), random() < 0.7)
}
/** Bits of the last character that no byte takes are set. */
function spareBits(random: Random): string {
  const bytes = data(random)
  const chars = bytes.subarray(0, Math.max(1, bytes.length - (bytes.length % 3 === 0 ? 1 : 0))).toString('base64')
  const at = chars.search(/=*$/) - 1
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
  const value = alphabet.indexOf(chars[at]!) | int(random, 1, chars.length - at === 3 ? 15 : 3)
  return chars.slice(0, at) + alphabet[value]! + chars.slice(at + 1)
}
function words(random: Random, count: number): string {
  const list = Array.from({ length: count }, () =>
    pick(random, ['list', 'the', 'Unsubscribe:', 'a+b', '--', 'mail', 'of', '<x@y>']),
  )
  return list.map((word) => word + pick(random, [' ', ' ', '\n', '\r\n'])).join('')
}
function junkAt(random: Random, text: string, junk: string): string {
  const at = int(random, 0, text.length)
  return text.slice(0, at) + junk + text.slice(at)
}

/** Bodies of parts, by what is odd about them. */
export const SHAPES: Readonly<Record<string, (random: Random) => string>> = {
  'equal lines of 1 to 996': (random) => regular(random),
  'lines of 76, CRLF': (random) => lines(data(random).toString('base64'), 76, '\r\n', true),
  'no line end at all': (random) => data(random).toString('base64'),
  'missing or extra last line ends': (random) => regular(random) + pick(random, EOLS).repeat(int(random, 0, 4)),
  'line ends mixed': (random) =>
    lines(data(random).toString('base64'), lineLength(random), '\0', true).replaceAll('\0', () => pick(random, EOLS)),
  'one other line end': (random) => {
    const text = regular(random)
    const at = text.indexOf('\n', int(random, 0, text.length))
    return at < 0 ? text : `${text.slice(0, at)}${pick(random, ['\n\n', '\r\n', '\r\r\n'])}${text.slice(at + 1)}`
  },
  'lines of any length': (random) => {
    let text = ''
    const max = int(random, 2, 996)
    const end = pick(random, EOLS)
    const chars = data(random).toString('base64')
    for (let at = 0; at < chars.length; ) {
      const length = int(random, 1, max)
      text += chars.slice(at, at + length) + end
      at += length
    }
    return text
  },
  'lengths that alternate': (random) => {
    let text = ''
    const lengths = [int(random, 40, 80), int(random, 40, 80)]
    const chars = data(random).toString('base64')
    for (let at = 0, i = 0; at < chars.length; at += lengths[i++ % 2]!)
      text += `${chars.slice(at, at + lengths[i % 2]!)}\r\n`
    return text
  },
  'a line end that moved': (random) => {
    const text = lines(data(random).toString('base64'), int(random, 3, 80), '\r\n', true)
    const at = text.indexOf('\r\n', int(random, 0, text.length))
    if (at < 4) return text
    const by = int(random, 1, 3)
    return random() < 0.5
      ? `${text.slice(0, at - by)}\r\n${text.slice(at - by, at)}${text.slice(at + 2)}`
      : `${text.slice(0, at - 2 - by)}\r\n${text.slice(at - by)}`
  },
  'spare bits set': (random) => regular(random, spareBits(random)),
  'padding missing or too much': (random) =>
    regular(
      random,
      data(random)
        .toString('base64')
        .replace(/=*$/, '=='.slice(0, int(random, 0, 2))),
    ) + '='.repeat(int(random, 0, 2)),
  'padding in the middle': (random) => {
    const chars = Array.from({ length: int(random, 2, 4) }, () =>
      random() < 0.3 ? spareBits(random) : data(random).toString('base64'),
    )
    return random() < 0.5 ? regular(random, chars.join('')) : chars.map((each) => regular(random, each)).join('')
  },
  'trailing text': (random) =>
    `${regular(random)}${pick(random, ['\n', '\r\n\r\n', ''])}${words(random, int(random, 1, 60))}`,
  'leading text': (random) => words(random, int(random, 1, 30)) + pick(random, EOLS) + regular(random),
  'long trailing text': (random) => regular(random) + words(random, int(random, 1000, 4000)),
  'blanks at line ends': (random) => regular(random).replaceAll('\n', () => (random() < 0.2 ? ' \n' : '\n')),
  'empty lines between': (random) => regular(random).replaceAll('\n', '\n\n'),
  'one byte of junk': (random) =>
    junkAt(random, regular(random), pick(random, [' ', '-', '_', '\0', '\r', '=', '\xff', '!', '\t'])),
  'much junk': (random) => {
    let text = regular(random)
    for (let i = int(random, 2, 40); i > 0; i--)
      text = junkAt(random, text, String.fromCharCode(int(random, 0, 255)).repeat(int(random, 1, 5)))
    return text
  },
  'base64 that turns into something else': (random) =>
    regular(random) + data(random).toString('latin1') + (random() < 0.5 ? regular(random) : ''),
  'the alphabet of URLs': (random) => lines(data(random).toString('base64url'), lineLength(random), '\n', true),
  hexadecimal: (random) => lines(data(random).toString('hex'), lineLength(random), '\n', true),
  'lines with dashes': (random) => regular(random).replaceAll('\n', () => (random() < 0.1 ? '\n--x\n' : '\n')),
  binary: (random) => data(random).toString('latin1'),
  words: (random) => words(random, int(random, 1, 300)),
  letters: (random) => String.fromCharCode(int(random, 0, 255)).repeat(int(random, 1, 5000)),
}

/** A message with such a body as its only one, in a multipart, or in a message within it. */
export function mailWith(body: string, random: Random): Buffer {
  const end = random() < 0.8 ? '\r\n' : '\n'
  const boundary = pick(random, ['b', 'b'.repeat(74), 'b'.repeat(74), '=_x', ''])
  const head = (type: string, more = ''): string => `Content-Type: ${type}${end}${more}${end}`
  const leaf = (content: string): string =>
    head(
      pick(random, ['application/pdf', 'image/png', 'application/x; name=a']),
      `Content-Transfer-Encoding: base64${end}`,
    ) + content
  const multipart = (parts: readonly string[]): string =>
    `${head(`multipart/mixed; boundary="${boundary}"`)}preamble${end}` +
    parts.map((part) => `--${boundary}${end}${part}${end}`).join('') +
    (random() < 0.9 ? `--${boundary}--${end}epilogue${end}` : '')
  const text = `${head('text/plain')}some text${end}`
  const kind = random()
  let message: string
  if (kind < 0.2) message = leaf(body)
  else if (kind < 0.6) message = multipart([text, leaf(body)])
  else if (kind < 0.8) message = multipart([leaf(body), text, leaf(body), leaf('QUJD')])
  else message = multipart([`${head('message/rfc822')}Subject: inner${end}${leaf(body)}`, text])
  return Buffer.from(`Subject: s${end}${message}`, 'latin1')
}
