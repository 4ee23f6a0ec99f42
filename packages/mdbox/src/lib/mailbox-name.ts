/**
 * Mailbox names as Dovecot keeps them on disk: modified UTF-7 (RFC 3501 §5.1.3), for the B line of a message.
 *
 * Only rebuilds read it, so a name that cannot be written is left out, and one that cannot be read is none.
 */

/** Longest name that is written down, in encoded bytes. */
export const NAME_MAX = 1024

/** '' for a name that is too long or empty. */
export function writeMailboxName(name: string): string {
  let out = ''
  for (let at = 0; at < name.length; ) {
    const code = name.charCodeAt(at)
    if (isDirect(code)) {
      out += code === 0x26 ? '&-' : name[at]!
      at++
      continue
    }
    let end = at
    while (end < name.length && !isDirect(name.charCodeAt(end))) end++
    const units = Buffer.from(name.slice(at, end), 'utf16le').swap16()
    out += `&${units.toString('base64').replaceAll('/', ',').replace(/=+$/, '')}-`
    at = end
  }
  return out.length > NAME_MAX ? '' : out
}

/** Undefined if `text` is no modified UTF-7. */
export function readMailboxName(text: string): string | undefined {
  if (/^[\x20-\x25\x27-\x7e]*$/.test(text)) return text
  let out = ''
  for (let at = 0; at < text.length; ) {
    const code = text.charCodeAt(at)
    if (!isDirect(code)) return undefined
    if (code !== 0x26) {
      out += text[at]!
      at++
      continue
    }
    const end = text.indexOf('-', at)
    if (end < 0) return undefined
    const encoded = text.slice(at + 1, end)
    if (encoded === '') out += '&'
    else {
      if (!/^[A-Za-z0-9+,]+$/.test(encoded)) return undefined
      const units = Buffer.from(encoded.replaceAll(',', '/'), 'base64')
      if (units.length === 0 || units.length % 2 !== 0) return undefined
      out += units.swap16().toString('utf16le')
    }
    at = end + 1
  }
  return out
}

function isDirect(code: number): boolean {
  return code >= 0x20 && code <= 0x7e
}
