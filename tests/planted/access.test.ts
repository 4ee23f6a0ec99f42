/**
 * Whether the test of access after a loss of the index can fail: @mailstead/store with one planted fault each, which it must notice. Copies
 * live outside the repository, with a link to its dependencies.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { counts, judgeHistory } from '../rebuild/access-judge.ts'
import type { Focus, Tools } from '../rebuild/access-world.ts'
import { REPOSITORY } from '../support/corpus.ts'
import { deep, say } from '../support/depth.ts'

/** Histories after which a fault is not noticed. */
const HISTORIES = 60

interface Mutant {
  readonly fault: string
  readonly file: string
  readonly from: string
  readonly to: string
  /** What it takes. (default: all) */
  readonly focus?: Focus
  /** Planted in a deep run only. */
  readonly rare?: true
}

const MUTANTS: readonly Mutant[] = [
  {
    fault: 'a change is acknowledged before the ledger has it',
    file: 'core.ts',
    from: '        await this.followTree()\n      }\n      return result',
    to: '        void this.followTree().catch(() => {})\n      }\n      return result',
  },
  {
    fault: 'the ledger is not written at all after the store is made',
    file: 'core.ts',
    from: '        await this.followTree()\n      }\n      return result',
    to: '      }\n      return result',
  },
  {
    fault: 'what nothing tells of stays open',
    file: 'rebuild-access.ts',
    from: 'if (!this.#sure.has(guid)) this.#close(guid, name)',
    to: '',
  },
  {
    fault: 'a tree that lost frames is believed',
    file: 'rebuild-access.ts',
    from: 'if (isWhole && before.damaged.length === 0 && this.newest <= version) {',
    to: 'if (before.byGuid.size > 0) {',
    rare: true,
  },
  {
    fault: 'the ledger does not say which flags are private',
    file: 'tree.ts',
    from: '[MAILBOX, ACL, CLOSED, PRIVACY, PRIVACY_SINCE]',
    to: '[MAILBOX, ACL, CLOSED]',
  },
  {
    fault: 'a list that was taken away stays in the ledger',
    file: 'ledger.ts',
    from: '      if (isIncomplete) addForgotten(kept, known.values)\n',
    to: '      for (const [key, value] of known.values) if (!kept.has(key)) kept.set(key, value)\n',
  },
  {
    fault: 'where messages went is not written down',
    file: 'mailbox.ts',
    from: '    await core.link(this.#entry.guid, target.guid)\n',
    to: '',
    focus: 'places',
  },
  {
    fault: 'a message in several mailboxes is taken for one of the first alone',
    file: 'save.ts',
    from: 'await this.#core.link(targets[0]!.entry.guid, targets[at]!.entry.guid)',
    to: 'await Promise.resolve()',
    rare: true,
    focus: 'places',
  },
  {
    fault: 'a message of a mailbox that is gone comes to another of its name',
    file: 'rebuild-access.ts',
    from: 'if (guid !== undefined && guid !== entry.guid) return true\n',
    to: '',
    focus: 'places',
  },
  {
    fault: 'a mailbox with a list is taken for the owner’s alone',
    file: 'rebuild-access.ts',
    from: 'return !this.#after.has(aclKey(guid)) && ',
    to: 'return ',
    focus: 'owned',
  },
  {
    fault: 'a mark that a mailbox is closed closes nothing',
    file: 'access.ts',
    from: 'subject.owner ? access.rightsFor(subject) : 0',
    to: 'subject.owner ? access.rightsFor(subject) : access.rightsFor(subject)',
  },
]

describe('a fault that is planted', () => {
  const root = mkdtempSync(join(tmpdir(), 'mailstead-access-mutants-'))
  symlinkSync(join(REPOSITORY, 'node_modules'), join(root, 'node_modules'))
  writeFileSync(join(root, 'package.json'), '{ "type": "module" }\n')
  afterAll(() => rmSync(root, { recursive: true }))
  const source = join(REPOSITORY, 'packages', 'store')

  /** A store with the fault, if there is one. */
  async function toolsOf(name: string, mutant?: Mutant): Promise<Tools> {
    const copy = join(root, name)
    mkdirSync(copy)
    cpSync(join(source, 'src'), join(copy, 'src'), { recursive: true })
    if (mutant !== undefined) {
      const file = join(copy, 'src', 'lib', mutant.file)
      const text = readFileSync(file, 'utf8')
      expect(text.split(mutant.from).length, `${mutant.fault}: the place is there once`).toBe(2)
      writeFileSync(
        file,
        text.replace(mutant.from, () => mutant.to),
      )
    }
    return (await import(/* @vite-ignore */ join(copy, 'src', 'index.ts'))) as Tools
  }

  /** Of the first history that shows it, what is wrong; or undefined. */
  async function failing(
    tools: Tools,
    histories: number,
    focus: Focus = 'all',
  ): Promise<{ history: number; wrong: string } | undefined> {
    for (let history = 0; history < histories; history++) {
      const options = { seed: 5_000 + history, steps: 25, states: 8, counted: counts(), focus }
      const wrong = await judgeHistory(tools, 'mdbox', options).catch((error: unknown) => [String(error)])
      if (wrong.length > 0) return { history, wrong: wrong.at(-1)! }
    }
    return undefined
  }

  test('without one, nobody sees more', async () => {
    const tools = await toolsOf('none')
    for (const focus of ['all', 'places', 'owned'] as const) expect(await failing(tools, 2, focus)).toBeUndefined()
  })

  // A few of them are enough to see that they are noticed; all are planted in CI.
  const planted = [...MUTANTS.entries()].filter(([i, { rare }]) => deep() || (i % 3 === 0 && rare !== true))
  for (const [i, mutant] of planted)
    test(`is noticed: ${mutant.fault}`, async () => {
      const found = await failing(await toolsOf(`mutant-${i}`, mutant), HISTORIES, mutant.focus)
      say(
        `planted: ${mutant.fault}: ${found === undefined ? 'NOT noticed' : `noticed by history ${found.history}: ${found.wrong.slice(0, 160)}`}`,
      )
      expect(found).toBeDefined()
    })
})
