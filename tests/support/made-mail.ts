/**
 * Mail that this project makes itself: for runs without the corpus, for the crash loop and for the benchmarks.
 * The same number always gives the same bytes.
 */
import { createHash } from 'node:crypto'
import type { CorpusMessage } from './corpus.ts'
import { seeded } from './depth.ts'

const WORDS =
  'the quarterly report shows that our harbour crane needs new bearings before winter please confirm whether the spare parts arrived in the warehouse on friday and who will sign for them otherwise we must postpone the inspection until the ferry returns with the engineers from the northern islands'.split(
    ' ',
  )
const PEOPLE = [
  'Ada Marsh',
  'Bo Lind',
  'Chiara Neri',
  'Dmitri Orlov',
  'Esi Mensah',
  'Finn Quist',
  'Grace Obi',
  'Hana Sato',
]

export interface MadeMailOptions {
  /** About this many bytes of text. (default 2,500) */
  readonly bodyBytes?: number
  /** Adds a line that only this message has: what a body search looks for. */
  readonly needle?: string
}

/** A plain message with the headers that ordinary mail has, in canonical form. */
export function plainMessage(number: number, options: MadeMailOptions = {}): Buffer {
  const random = seeded(number + 1)
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  const person = (): string => {
    const name = pick(PEOPLE)
    return `${name} <${name.toLowerCase().replace(' ', '.')}@example.org>`
  }
  const date = new Date(Date.UTC(2020, 0, 1) + number * 61_000)
  const lines = [
    `Return-Path: <bounces+${number}@lists.example.org>`,
    `Received: from mx${number % 4}.example.org (mx${number % 4}.example.org [192.0.2.${number % 250}])`,
    `\tby mail.example.com with ESMTP id ${(number * 7919).toString(16)};`,
    `\t${date.toUTCString().replace('GMT', '+0000')}`,
    `Date: ${date.toUTCString().replace('GMT', '+0000')}`,
    `From: ${person()}`,
    `To: ${person()}, ${person()}`,
    `Cc: ${person()}`,
    `Subject: ${number % 3 === 0 ? 'Re: ' : ''}${pick(WORDS)} ${pick(WORDS)} ${pick(WORDS)} ${number}`,
    `Message-ID: <${number}.${(number * 104_729) % 1_000_003}@example.org>`,
    ...(number % 3 === 0 && number > 0
      ? [`In-Reply-To: <${number - 1}.${((number - 1) * 104_729) % 1_000_003}@example.org>`]
      : []),
    'MIME-Version: 1.0',
    'Content-Type: text/plain; charset=utf-8',
    'Content-Transfer-Encoding: 8bit',
    'User-Agent: Mailstead-made/1.0',
    'List-Id: <harbour.lists.example.org>',
    '',
  ]
  let size = 0
  const limit = options.bodyBytes ?? 2500
  while (size < limit) {
    let line = ''
    while (line.length < 64) line += `${pick(WORDS)} `
    lines.push(line.trimEnd())
    size += line.length + 1
  }
  if (options.needle !== undefined) lines.push(options.needle)
  lines.push('')
  return Buffer.from(lines.join('\r\n'))
}

/** A message with a text part, an HTML part and an attachment, in canonical form. */
export function mimeMessage(number: number): Buffer {
  const random = seeded(number ^ 0x5eed)
  const attachment = Buffer.alloc(3000 + Math.floor(random() * 30_000), 0)
  for (let at = 0; at < attachment.length; at++) attachment[at] = Math.floor(random() * 256)
  const encoded = attachment.toString('base64').replace(/.{76}/g, '$&\r\n')
  return Buffer.from(
    [
      'From: "Übermut, Éva" <eva@example.org>',
      'To: undisclosed-recipients:;',
      `Subject: =?utf-8?B?${Buffer.from(`Grüße №${number}`).toString('base64')}?=`,
      `Message-ID: <mime-${number}@example.org>`,
      'Date: Thu, 2 Jan 2020 03:04:05 -0700',
      'MIME-Version: 1.0',
      `Content-Type: multipart/mixed; boundary="=_outer_${number}"`,
      '',
      'A preamble nobody reads.',
      `--=_outer_${number}`,
      `Content-Type: multipart/alternative; boundary=inner`,
      '',
      '--inner',
      'Content-Type: text/plain; charset=iso-8859-1',
      'Content-Transfer-Encoding: quoted-printable',
      '',
      'Gr=FC=DFe aus dem Hafen =2E',
      '.a line that begins with a dot',
      '.',
      'From the quay, a line that mboxes mangle',
      '--inner',
      'Content-Type: text/html; charset=utf-8',
      '',
      '<p>Grüße</p>',
      '--inner--',
      '',
      `--=_outer_${number}`,
      'Content-Type: application/octet-stream; name="data.bin"',
      "Content-Disposition: attachment; filename*=utf-8''d%C3%A4ta.bin",
      'Content-Transfer-Encoding: base64',
      '',
      encoded,
      `--=_outer_${number}--`,
      '',
    ].join('\r\n'),
  )
}

/** About two hundred messages, ordinary and odd. */
export function madeMail(): readonly CorpusMessage[] {
  const list: Buffer[] = []
  for (let number = 0; number < 120; number++) list.push(plainMessage(number))
  for (let number = 0; number < 60; number++) list.push(mimeMessage(number))
  const odd = [
    'Subject: no body, no blank line\r\n',
    '\r\nonly a body\r\n',
    'Subject: no final line end\r\n\r\nlast',
    `Subject: a long line\r\n\r\n${'x'.repeat(20_000)}\r\n`,
    'Subject: dots\r\n\r\n.\r\n..\r\n...\r\n.a\r\n',
    'Subject: eight bit \xe9\r\n\r\n\xff\xfe\x80\r\n',
    'Subject: a bare CR\r\n\r\nhere\rthere\r\n',
    'this is no header at all\r\nnor is this\r\n',
    `Subject: ${'folded\r\n '.repeat(200)}end\r\n\r\nbody\r\n`,
    'From: a@b\r\nFrom: c@d\r\nDate: not a date\r\n\r\n\r\n\r\n',
  ]
  for (const text of odd) list.push(Buffer.from(text, 'latin1'))
  return list.map((bytes, number) => {
    const hash = createHash('sha256').update(bytes).digest('hex')
    return {
      archive: 'made',
      member: String(number),
      category: 'plain',
      flags: [],
      bytes,
      found: bytes,
      sha256: hash,
      foundSha256: hash,
    }
  })
}
