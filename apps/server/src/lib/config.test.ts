import { describe, expect, test } from 'vitest'
import { formatListen, parseConfig, parseListen } from './config.ts'
import { settingsOf } from './settings.ts'

describe('the configuration', () => {
  test('everything it may say is read', () => {
    const config = parseConfig(
      `
data = "mail"
users = "/etc/mailstead/users"
hostname = "mail.example.org"
[imap]
listen = "127.0.0.1:143"
tls_listen = "[::]:993"
connections = 500
idle_minutes = 60
login_seconds = 30
plaintext_login = false
[lmtp]
listen = "127.0.0.1:24"
connections = 20
recipients = 50
separator = "-"
return_path = true
idle_seconds = 60
[tls]
cert = "cert.pem"
key = "/etc/key.pem"
[store]
flags = "lazy"
box = "sdbox"
message_bytes = 1000000
idle_seconds = 10
open = 5
compression = "auto"
[purge]
interval_minutes = 0
copy_bytes = 1000
bytes_per_second = 2000
[alternate]
path = "old"
query = "older 90d"
[attachments]
enabled = false
path = "blobs"
min_bytes = 20000
domain = "tenant"
grace_hours = 2
[attachments.tenants]
acme = ["Example.org", "example.net"]
[log]
level = "warn"
`,
      '/etc/mailstead/mailstead.toml',
    )
    expect(config).toMatchObject({
      data: '/etc/mailstead/mail',
      users: '/etc/mailstead/users',
      imap: { host: '127.0.0.1', port: 143 },
      imaps: { host: '::', port: 993 },
      lmtp: { host: '127.0.0.1', port: 24 },
      tls: { cert: '/etc/mailstead/cert.pem', key: '/etc/key.pem' },
      alternate: { path: '/etc/mailstead/old' },
      imapSettings: { connections: 500, idleMinutes: 60, loginSeconds: 30, plaintextLogin: false },
      lmtpSettings: { connections: 20, recipients: 50, separator: '-', returnPath: true, idleSeconds: 60 },
      store: { flags: 'lazy', box: 'sdbox', messageBytes: 1_000_000, idleSeconds: 10, open: 5 },
      purge: { intervalMinutes: 0 },
      attachments: {
        enabled: false,
        path: '/etc/mailstead/blobs',
        minBytes: 20_000,
        domain: 'tenant',
        tenants: new Map([
          ['example.org', 'acme'],
          ['example.net', 'acme'],
        ]),
        graceHours: 2,
      },
      logLevel: 'warn',
    })
  })
  test.each([
    ['a = ', 'm.toml:1:5: no valid TOML'],
    ['dat = "x"', 'm.toml: dat: no such key'],
    ['data = 3', 'm.toml: data: must be a string'],
    ['imap = "127.0.0.1:143"', 'm.toml: imap: must be a table ([imap])'],
    ['[imap]\nlisten = "localhost"', 'm.toml: imap.listen: "localhost" is no address; write HOST:PORT'],
    ['[imap]\nidle_minutes = 5', 'm.toml: imap.idle_minutes: must be at least 30'],
    ['[lmtp]\nlisten = "127.0.0.1:70000"', 'm.toml: lmtp.listen: 70000 is no port'],
    ['[lmtp]\nseparator = "++"', 'm.toml: lmtp.separator: must be one character'],
    ['[tls]\ncert = "c"', 'm.toml: tls.key: is missing'],
    ['[store]\nbox = "maildir"', 'm.toml: store.box: must be "mdbox" or "sdbox"'],
    ['[store]\nflags = "never"', 'm.toml: store.flags: must be "flushed" or "lazy"'],
    ['[store]\nmessage_bytes = 1.5', 'm.toml: store.message_bytes: must be a whole number'],
    ['[purge]\ninterval_minutes = -1', 'm.toml: purge.interval_minutes: must not be negative'],
    ['[store]\ncompression = 20', 'm.toml: store.compression: must be at most 19'],
    ['[store]\ncompression = "on"', 'm.toml: store.compression: must be "off", "auto" or a level of 1 to 19'],
    ['[alternate]\nquery = "all"', 'm.toml: alternate.path: is missing'],
    ['[alternate]\npath = "x"\nquery = "older 9"', 'm.toml: alternate.query: "9" is no age'],
    ['[acl]\nanyone = 1', 'm.toml: acl.anyone: must be true or false'],
    ['[[namespace]]\nkind = "private"\nprefix = "x/"', 'm.toml: namespace.0.kind: must be a table with kind'],
    ['[[namespace]]\nkind = "public"\nprefix = "x"', 'm.toml: namespace.0.prefix: the prefix "x" must end with "/"'],
    ['[[namespace]]\nkind = "shared"\nprefix = "x/"', 'must be like "shared/%user/"'],
    ['[[namespace]]\nkind = "public"\nprefix = "x/"\npath = "../y"', 'namespace.0.path: must be a directory below'],
    ['[[namespace]]\nkind = "public"\nprefix = "x/"\npath = "users/y"', 'namespace.0.path: must be a directory below'],
    ['[[namespace]]\nkind = "public"\nprefix = "x/"\ndefault_acl = ["bob l"]', 'namespace.0.default_acl: "bob l"'],
    ['[[namespace]]\nkind = "shared"\nprefix = "x/%user/"\nbox = "mdbox"', 'm.toml: namespace.0.box: no such key'],
    ['[log]\nlevel = "loud"', 'm.toml: log.level: must be trace, debug'],
  ])('%j is refused by file and key', (source, complaint) => {
    expect(() => parseConfig(source, 'm.toml')).toThrow(complaint)
  })
  test('namespaces have a place of their own, and two cannot have one prefix', () => {
    const shared = '[[namespace]]\nkind = "shared"\nprefix = "user/%user/"\n'
    const team = '[[namespace]]\nkind = "public"\nprefix = "Our Team/"\n'
    expect(parseConfig(shared + team, 'm.toml')).toMatchObject({
      acl: { anyone: false, defaultsFromInbox: false, global: undefined },
      namespaces: [
        { kind: 'shared', prefix: 'user/%user/' },
        { kind: 'public', prefix: 'Our Team/', home: 'public/our%20team' },
      ],
    })
    expect(() => parseConfig(team + team, 'm.toml')).toThrow('m.toml: namespace.1.prefix: another namespace has')
    const cases = '[[namespace]]\nkind = "public"\nprefix = "our team/"\n'
    expect(() => parseConfig(team + cases, 'm.toml')).toThrow('namespace.1.path: another namespace has its store in')
    expect(parseConfig('[acl]\nglobal = "acl"', '/etc/m.toml').acl?.global).toBe('/etc/acl')
    expect(parseConfig('', 'm.toml')).toMatchObject({ acl: undefined, namespaces: [] })
  })
  test('every complaint is made, not only the first', () => {
    expect(() => parseConfig('data = 1\nusers = 2\n', 'm.toml')).toThrow(/data: .*\n.*users: /)
  })
})

describe('addresses', () => {
  test.each(['127.0.0.1:143', '[::1]:143', 'localhost:0', '0.0.0.0:65535'])('%s is read and written', (text) => {
    const parsed = parseListen(text)
    if (typeof parsed === 'string') throw new Error(parsed)
    expect(formatListen(parsed)).toBe(text)
  })
  test.each(['', '143', ':143', 'a:', 'a:b', '::1:143', 'a b:1', '[x]:1'])('%j is none', (text) => {
    expect(typeof parseListen(text)).toBe('string')
  })
})

describe('settings', () => {
  test('need a data directory and something to listen on', () => {
    expect(() => settingsOf({})).toThrow('no data directory')
    expect(() => settingsOf({ data: 'x' })).toThrow('nothing to listen on')
  })
  test('name the flag that is wrong', () => {
    expect(() => settingsOf({ data: 'x', imap: 'nowhere' })).toThrow('--imap: "nowhere" is no address')
    expect(() => settingsOf({ data: 'x', imaps: 'a:1' })).toThrow('--imaps needs a certificate')
    expect(() => settingsOf({ data: 'x', imap: 'a:1', cert: 'c' })).toThrow('--cert and --key')
    expect(() => settingsOf({ data: 'x', imap: 'a:1', logLevel: 'loud' })).toThrow('--log-level loud')
    expect(() => settingsOf({ data: 'x', config: '/nonexistent.toml' })).toThrow('/nonexistent.toml: cannot be read')
  })
  test('flags come before defaults', () => {
    const settings = settingsOf(
      { imap: '127.0.0.1:5' },
      { data: '/d', imap: '127.0.0.1:1', lmtp: '127.0.0.1:2', init: true },
    )
    expect(settings).toMatchObject({ imap: { port: 5 }, lmtp: { port: 2 }, init: true, users: '/d/users.passwd' })
  })
})
