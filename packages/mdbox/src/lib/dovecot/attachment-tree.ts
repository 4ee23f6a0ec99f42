/**
 * A tree of attachments as Dovecot's single instance storage keeps it, whatever messages say: every file, compared with its name.
 *
 *   <h0h1>/<h2h3>/<hash>-<random>      one for each reference (sdbox adds the mailbox and UID)
 *   <h0h1>/<h2h3>/hashes/<hash>        the same file, by which equal ones are found
 *
 * They are links to one file, until a backup, a restore or Dovecot 2.4 made several of it. Each file is read once, where the
 * driver tells links apart (by their tags).
 */
import { digestOf, type NameVerdict, verifyDigest } from './attachment-hash.ts'
import { piecesOf } from './attachment.ts'
import type { DovecotAttachment, DovecotRoot } from './contract.ts'
import { Faults } from './fault.ts'
import { below, isAbsence, join, messageOf, type NamedRoot, namesIn, openIfThere } from './root.ts'

const HASHES = 'hashes'
/** Directories are the first two pairs of digits. */
const DIRECTORY = /^[0-9a-zA-Z]{2}$/
/** Files whose verdict is remembered, so that further links to them are not read. */
const REMEMBERED_MAX = 4096

/** All of them by directory, a page for each. What is no attachment by its name is `unverified`. Read-only. */
export async function* readAttachments(
  tree: DovecotRoot,
): AsyncGenerator<readonly DovecotAttachment[], void, undefined> {
  const root: NamedRoot = { ...tree, shown: '' }
  const faults = new Faults()
  for (const first of await namesIn(root, 'directory', faults)) {
    if (!DIRECTORY.test(first)) continue
    for (const second of await namesIn(below(root, first), 'directory', faults)) {
      if (!DIRECTORY.test(second)) continue
      const directory = join(first, second)
      const page: DovecotAttachment[] = []
      const known = new Map<string, NameVerdict>()
      for (const name of await namesIn(below(root, join(directory, HASHES)), 'file', faults))
        page.push(await look(root, join(directory, `${HASHES}/${name}`), 'shared', known))
      for (const name of await namesIn(below(root, directory), 'file', faults))
        page.push(await look(root, join(directory, name), 'reference', known))
      if (page.length > 0) yield page
    }
  }
  const unread: DovecotAttachment[] = []
  for (const { file, message } of faults.list)
    unread.push({
      path: file ?? '',
      form: 'reference',
      digest: '',
      size: 0,
      verdict: 'unreadable',
      isLink: false,
      message,
      open: nothing,
    })
  if (unread.length > 0) yield unread
}

async function look(
  root: NamedRoot,
  path: string,
  form: DovecotAttachment['form'],
  known: Map<string, NameVerdict>,
): Promise<DovecotAttachment> {
  const digest = digestOf(path)
  const open = (): AsyncIterable<Uint8Array> => contentOf(root, path)
  const tell = (
    size: number,
    verdict: DovecotAttachment['verdict'],
    isLink: boolean,
    message = '',
  ): DovecotAttachment => ({
    path,
    form,
    digest,
    size,
    verdict,
    isLink,
    message,
    open,
  })
  try {
    const stat = await root.fs.stat(join(root.path, path))
    if (stat === undefined) return tell(0, 'unreadable', false, 'it is gone')
    const key = stat.tag === '' ? '' : `${stat.tag} ${digest}`
    const before = key === '' ? undefined : known.get(key)
    if (before !== undefined) return tell(stat.size, before, true, told(before))
    const verdict = await verifyDigest(digest, open)
    if (key !== '' && known.size < REMEMBERED_MAX) known.set(key, verdict)
    return tell(stat.size, verdict, false, told(verdict))
  } catch (error) {
    return tell(0, 'unreadable', false, isAbsence(error) ? 'it is gone' : messageOf(error))
  }
}

function told(verdict: NameVerdict): string {
  if (verdict === 'whole') return ''
  return verdict === 'damaged' ? 'it is not what its name says' : 'its name is no hash that is known'
}

async function* contentOf(root: NamedRoot, path: string): AsyncGenerator<Uint8Array, void, undefined> {
  const faults = new Faults()
  const found = await openIfThere(root, path, faults)
  if (found === undefined) throw new Error(faults.list[0]?.message ?? `${path} is gone`)
  try {
    yield* piecesOf(found)
  } finally {
    await found.file[Symbol.asyncDispose]()
  }
}

async function* nothing(): AsyncGenerator<Uint8Array, void, undefined> {}
