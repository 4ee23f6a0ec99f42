/** What is done to a large store, each in a process of its own, takes a bounded memory, Node and the program included. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { corpusLack } from '../tests/support/corpus.ts'
import { deep, say } from '../tests/support/depth.ts'
import { testUnless } from '../tests/support/test-unless.ts'
import { largeChild, MEMORY_MAX } from './box-large.ts'
import { LARGE, type LargeTask } from './box-large-child.ts'

const MESSAGES = deep() ? LARGE : 1500
/** What a process takes that has done next to nothing, in MB; the rest is what messages may cost. */
const NOTHING_DONE = 130
const BOUND = Math.min(MEMORY_MAX, NOTHING_DONE + (MEMORY_MAX - NOTHING_DONE) * (MESSAGES / 5000))

testUnless(
  corpusLack(),
  `${MESSAGES} messages of the corpus are moved between tiers, purged and rebuilt within ${BOUND.toFixed(0)} MB`,
  () => {
    const directory = mkdtempSync(join(tmpdir(), 'mailstead-large-'))
    try {
      const source = ['--conditions=@mailstead/source']
      largeChild('make', directory, MESSAGES, source)
      const steps: readonly (readonly [what: string, task: LargeTask])[] = [
        ['altmove there', 'there'],
        ['altmove back', 'back'],
        ['rebuild', 'rebuild'],
        ['rebuild without its index', 'rebuild'],
        ['purge, with every second message expunged', 'purge'],
      ]
      for (const [what, task] of steps) {
        if (task === 'purge') largeChild('expunge', directory, undefined, source)
        if (what.endsWith('index')) rmSync(join(directory, 'main', 'index'), { recursive: true })
        const { messages, bytes, seconds, memory } = largeChild(task, directory, undefined, source)
        say(
          `${MESSAGES} messages, ${what}: ${messages} messages, ${(bytes / 1e6).toFixed(0)} MB in ${seconds.toFixed(2)} s, ` +
            `${(bytes / 1e6 / seconds).toFixed(0)} MB/s; most memory ${memory.toFixed(0)} MB`,
        )
        expect(messages, what).toBeGreaterThan(0)
        expect(memory, what).toBeLessThan(BOUND)
      }
    } finally {
      rmSync(directory, { recursive: true })
    }
  },
)
