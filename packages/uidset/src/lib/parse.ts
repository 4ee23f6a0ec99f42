/**
 * IMAP's sequence-set (RFC 9051 §9), without the `$` of SEARCHRES:
 *
 *   sequence-set = element *("," element)      element = number / number ":" number
 *   number       = digit-nz *digit / "*"
 */
import { RangeCollector } from './builder.ts'
import { UID_MAX } from './limits.ts'

const COLON = 0x3a
const COMMA = 0x2c
const STAR = 0x2a
const ZERO = 0x30

/** The canonical ranges of `text`. `star` is what `*` stands for, 0 if it stands for nothing, undefined if it is refused. */
export function parseRanges(text: string, star: number | undefined): Uint32Array {
  const collector = new RangeCollector()
  const { length } = text
  let at = 0
  for (;;) {
    let lo = 0
    let hi = 0
    // At most two numbers: `lo`, and `hi` after a colon.
    for (let part = 0; part < 2; part++) {
      let value = 0
      let digit = at < length ? text.charCodeAt(at) : -1
      if (digit === STAR) {
        if (star === undefined) throw new RangeError('* has no meaning here')
        value = star
        at++
      } else {
        if (!(digit > ZERO && digit <= ZERO + 9)) throw malformed(text, at)
        while (digit >= ZERO && digit <= ZERO + 9) {
          value = value * 10 + digit - ZERO
          if (value > UID_MAX) throw new RangeError('a number of the set is beyond 32 bits')
          digit = ++at < length ? text.charCodeAt(at) : -1
        }
      }
      if (part === 0) lo = value
      hi = value
      if (part === 0) {
        if (at < length && text.charCodeAt(at) === COLON) at++
        else break
      }
    }
    // With `*` of an empty mailbox one bound is 0: the element names no message.
    if (lo !== 0 && hi !== 0) {
      if (lo <= hi) collector.add(lo, hi)
      else collector.add(hi, lo)
    }
    if (at === length) return collector.ranges()
    if (text.charCodeAt(at) !== COMMA) throw malformed(text, at)
    at++
  }
}

function malformed(text: string, at: number): RangeError {
  const shown = text.length > 40 ? `${text.slice(0, 40)}…` : text
  return new RangeError(`${JSON.stringify(shown)} is no set of UIDs: see position ${at}`)
}
