/** Text for comparing: what SEARCH and SORT disregard is made equal. */

/**
 * Text as SEARCH compares it: in one case, decomposed (so that é written in one way or the other is equal, and ﬁ is fi),
 * line ends and tabs as blanks. After the idea of i;unicode-casemap (RFC 5051), which RFC 5255 §4 recommends.
 */
export function foldText(text: string): string {
  let plain = true
  let ascii = true
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    if (unit < 0x20) plain = false
    else if (unit > 0x7f) ascii = false
  }
  const upper = ascii ? text.toUpperCase() : text.normalize('NFKD').toUpperCase().normalize('NFKD')
  // Everything below the blank.
  return plain ? upper : upper.replace(/[^ -\uffff]/g, ' ')
}

/** Whether folding changes nothing but case, and the value, read from a header, holds no encoded word. */
export function isPlain(value: string): boolean {
  return !/[^ -~]|=\?/.test(value)
}

/** The same as UTF-8. */
export function foldToBytes(text: string): Buffer {
  return Buffer.from(foldText(text), 'utf8')
}
