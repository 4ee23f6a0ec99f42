/**
 * LIST patterns (RFC 3501 §6.3.8): `*` matches anything, `%` anything but the delimiter. INBOX matches in any case.
 */

/** A function that says whether a name matches one of the patterns. */
export function patternMatcher(patterns: readonly string[]): (name: string) => boolean {
  const compiled = patterns.map((pattern) => ({ exact: compile(pattern, ''), inbox: compile(pattern, 'i') }))
  return (name) => {
    const inbox = name === 'INBOX'
    for (const one of compiled) if ((inbox ? one.inbox : one.exact).test(name)) return true
    return false
  }
}

function compile(pattern: string, flags: string): RegExp {
  // Runs of wildcards mean no more than one of them, and would cost exponentially.
  const text = pattern
    .replace(/[*%]+/g, (run) => (run.includes('*') ? '*' : '%'))
    .replace(/[.+?^${}()|[\]\\/]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('%', '[^/]*')
  return new RegExp(`^${text}$`, `${flags}su`)
}
