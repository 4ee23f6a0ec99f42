import { parsePrivacyPolicy, type PrivacyPolicy, type PrivateFlags } from '@mailstead/acl/private-flags'
import { memoryFs } from '@mailstead/fs/memory'
import { mdbox } from '@mailstead/mdbox'
import { type Mailbox, openStore, type StoreSession } from '@mailstead/store'
import { expect, test } from 'vitest'
import { OpenedPolicy } from './opened-policy.ts'

function policy(text: string): PrivacyPolicy {
  const parsed = parsePrivacyPolicy(text)
  if ('fault' in parsed) throw new Error(parsed.fault)
  return parsed
}

test('a policy is formatted when there is another, and not as long as it is the same', () => {
  let formatted = 0
  const counted = (text: string): PrivacyPolicy => {
    const { rules, ...rest } = policy(text)
    return Object.defineProperty({ ...rest, rules }, 'rules', { get: () => (formatted++, rules) })
  }
  let now = counted('shared \\Seen')
  const session = { subject: { name: 'bob', privateFlags: {} as PrivateFlags }, privacy: () => now }
  const opened = OpenedPolicy.of(session as unknown as StoreSession, { name: 'A' } as Mailbox)!
  const each = formatted
  expect(each).toBeGreaterThan(0)
  for (let sync = 0; sync < 1000; sync++) expect(opened.isInForce()).toBe(true)
  expect(formatted).toBe(each)
  // Read anew, it says the same.
  now = counted('shared \\Seen')
  for (let sync = 0; sync < 1000; sync++) expect(opened.isInForce()).toBe(true)
  expect(formatted).toBe(2 * each)
  now = counted('private')
  expect(opened.isInForce()).toBe(false)
  now = counted('shared \\Seen')
  expect(opened.isInForce()).toBe(true)
})

test('a store has the same policy for a mailbox until another counts for it', async () => {
  const box = (root: ReturnType<typeof memoryFs>): ReturnType<typeof mdbox> => mdbox(root, 'storage')
  await using store = await openStore({ owner: 'anna', fs: memoryFs(), box: (fs) => box(fs), create: true })
  const session = store.as({ name: 'anna', privateFlags: await store.privateFlags() })
  await session.create('A')
  await session.changePrivacy('A', policy('shared \\Seen'))
  await using mailbox = await session.open('A')
  const before = session.privacy('A')
  const opened = OpenedPolicy.of(session, mailbox)!
  await using batch = session.save()
  await batch.add(Buffer.from('Subject: x\r\n\r\n'), [{ mailbox: 'A' }])
  await batch.commit()
  await session.create('B')
  await session.changePrivacy('B', policy('private'))
  await session.rename('A', 'A2')
  await session.refresh()
  expect(session.privacy('A2')).toBe(before)
  expect(opened.isInForce()).toBe(true)
  await session.changePrivacy('A2', policy('private'))
  expect(session.privacy('A2')).not.toBe(before)
  expect(opened.isInForce()).toBe(false)
  expect(OpenedPolicy.of(store.as({ name: 'anna' }), mailbox)).toBeUndefined()
})
