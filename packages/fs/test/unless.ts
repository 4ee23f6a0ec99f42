/** Tests that say why they are skipped, and fail instead where nothing may be skipped. */
import { describe, test } from 'vitest'

/** How deep this run goes: 'normal' on a developer's machine. */
export const depth: 'normal' | 'ci' | 'soak' = ((): 'normal' | 'ci' | 'soak' => {
  const asked = process.env['MAILSTEAD_DEPTH']
  return asked === 'ci' || asked === 'soak' ? asked : 'normal'
})()

/** Describes `title`, unless there is a reason why it cannot be tested here. */
export function describeUnless(reason: string | undefined, title: string, body: () => void): void {
  if (reason === undefined) {
    describe(title, body)
  } else if (depth === 'normal') {
    console.log(`skipped: ${title}: ${reason}`)
    test.skip(`${title} (skipped: ${reason})`, () => {})
  } else
    test(title, () => {
      throw new Error(`nothing may be skipped in a deep run: ${reason}`)
    })
}
