/** What the processes of attached-processes.test.ts save. */
import { mail, noise } from '../store/attached-world.ts'

/** Different messages; some share their attachments. */
export const CONTENTS = 24
/** Very short, so that sweeps have something to do. */
export const GRACE_MS = 40

export function contentMail(content: number): Buffer {
  const picture = noise(`picture ${content % 7}`, 6000)
  return content % 3 === 0
    ? mail(`content ${content}`, picture, noise(`file ${content % 5}`, 4000))
    : mail(`content ${content}`, picture)
}

export function storeAt(root: string, owner: string): string {
  return `${root}/${owner}`
}
