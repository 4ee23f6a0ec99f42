/** The first messages of a demonstration: written for it, in the forms that ordinary mail has. */

export interface DemoMessage {
  readonly from: string
  /** Folder, by plus-addressing. */
  readonly folder?: string
  readonly raw: string
}

/** Message ids are fixed, so that a second start can be told from the first by anyone who looks. */
export function demoMessages(user: string, now: Date): readonly DemoMessage[] {
  const to = `${user}@localhost`
  const date = (hoursAgo: number): string => rfc5322Date(new Date(now.getTime() - hoursAgo * 3_600_000))
  return [
    {
      from: 'welcome@mailstead.example',
      raw: `From: Mailstead <welcome@mailstead.example>
To: ${to}
Subject: Welcome to Mailstead
Date: ${date(26)}
Message-ID: <welcome.1@mailstead.example>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Hello ${user},

this mailbox is real: it was delivered through LMTP, it is on your disk,
and every byte of it has a checksum. Flag it, move it, copy it, delete it.
Stop the server with Ctrl-C and start it again: everything is as you left it.

“Ordinary mail clients” is meant literally. Any of them will do.

-- 
Mailstead
`,
    },
    {
      from: 'ines.barros@harbour.example',
      raw: `From: =?utf-8?q?In=C3=AAs_Barros?= <ines.barros@harbour.example>
To: ${to}
Cc: =?utf-8?b?SsO8cmdlbiBXZWnDnw==?= <juergen@harbour.example>
Subject: Timetable for the autumn ferries
Date: ${date(9)}
Message-ID: <ferries.1@harbour.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="ferry-42"

--ferry-42
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Good morning,

the new timetable is attached. From October the late boat leaves at 21:40
instead of 22:05, and on Sundays there is one more in the afternoon.
Could you check the caf=C3=A9 hours against it?

In=C3=AAs
--ferry-42
Content-Type: text/csv; name="autumn.csv"
Content-Disposition: attachment; filename="autumn.csv"
Content-Transfer-Encoding: base64

${Buffer.from('from,to,weekdays,sundays\r\nharbour,island,06:10,08:00\r\nharbour,island,21:40,16:30\r\nisland,harbour,06:50,08:40\r\n').toString('base64')}
--ferry-42--
`,
    },
    {
      from: 'juergen@harbour.example',
      raw: `From: =?utf-8?b?SsO8cmdlbiBXZWnDnw==?= <juergen@harbour.example>
To: =?utf-8?q?In=C3=AAs_Barros?= <ines.barros@harbour.example>
Cc: ${to}
Subject: Re: Timetable for the autumn ferries
Date: ${date(7)}
Message-ID: <ferries.2@harbour.example>
In-Reply-To: <ferries.1@harbour.example>
References: <ferries.1@harbour.example>
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="alt-7"

--alt-7
Content-Type: text/plain; charset=us-ascii

> Could you check the cafe hours against it?

Until nine is enough; nobody eats on the late boat.
--alt-7
Content-Type: text/html; charset=us-ascii

<blockquote>Could you check the cafe hours against it?</blockquote>
<p>Until <b>nine</b> is enough; nobody eats on the late boat.</p>
--alt-7--
`,
    },
    {
      from: 'reports@weather.example',
      raw: `From: Coast weather <reports@weather.example>
To: ${to}
Subject: Gale warning, Tuesday night
Date: ${date(2)}
Message-ID: <gale.2026@weather.example>
List-Id: Coast weather reports <coast.weather.example>
MIME-Version: 1.0
Content-Type: text/plain; charset=us-ascii

South-west 8, increasing 9 after midnight. Seas 4 to 5 metres.
Small craft stay in harbour.
`,
    },
  ]
}

function rfc5322Date(date: Date): string {
  return date.toUTCString().replace(/GMT$/, '+0000')
}
