"""What Python's imaplib gets: fetches every message of each mailbox, then writes, flags, copies and deletes in one of its own.

usage: imaplib_client.py HOST PORT USER PASSWORD MAILBOX...
Prints one JSON object: {"got": {mailbox: {uid: sha256}}, "steps": [...]}. Any surprise is an exception.
"""
import hashlib
import imaplib
import json
import re
import sys

imaplib._MAXLINE = 50_000_000
host, port, user, password, *mailboxes = sys.argv[1:]
client = imaplib.IMAP4(host, int(port))


def ok(answer):
    status, data = answer
    assert status == "OK", (status, data)
    return data


ok(client.login(user, password))
got = {}
for mailbox in mailboxes:
    count = int(ok(client.select('"%s"' % mailbox, readonly=True))[0])
    hashes = {}
    for first in range(1, count + 1, 50):
        for part in ok(client.fetch("%d:%d" % (first, min(count, first + 49)), "(UID BODY.PEEK[])")):
            if isinstance(part, tuple):
                uid = int(re.search(rb"UID (\d+)", part[0]).group(1))
                assert len(part[1]) == int(re.search(rb"\{(\d+)\}$", part[0]).group(1))
                hashes[uid] = hashlib.sha256(part[1]).hexdigest()
    got[mailbox] = hashes

message = b"Subject: from imaplib\r\nMessage-ID: <imaplib@example.org>\r\n\r\n" + bytes(range(128, 256)) + b"\r\n"
steps = []
ok(client.create("imaplib"))
ok(client.subscribe("imaplib"))
ok(client.append("imaplib", r"(\Flagged)", imaplib.Time2Internaldate(1_600_000_000), message))
assert int(ok(client.select("imaplib"))[0]) == 1
assert ok(client.search(None, "FLAGGED")) == [b"1"]
assert ok(client.search("UTF-8", "SUBJECT", '"imaplib"')) == [b"1"]
data = ok(client.fetch("1", "(FLAGS INTERNALDATE RFC822)"))
assert data[0][1] == message, data
assert b'"13-Sep-2020 12:26:40 +0000"' in data[0][0], data
assert b"\\Seen" in ok(client.fetch("1", "(FLAGS)"))[0]
steps.append("append and fetch")
ok(client.store("1", "+FLAGS", r"(\Answered custom)"))
flags = ok(client.fetch("1", "(FLAGS)"))[0]
assert all(flag in flags for flag in (b"\\Answered", b"custom", b"\\Flagged")), flags
steps.append("store")
ok(client.create("imaplib/copied"))
ok(client.copy("1", "imaplib/copied"))
ok(client.store("1", "+FLAGS", r"(\Deleted)"))
assert ok(client.expunge()) == [b"1"]
assert ok(client.search(None, "ALL")) == [b""]
ok(client.close())
assert int(ok(client.select("imaplib/copied"))[0]) == 1
assert ok(client.fetch("1", "(RFC822)"))[0][1] == message
ok(client.close())
steps.append("copy and expunge")
ok(client.rename("imaplib/copied", "imaplib/renamed"))
names = b"\n".join(ok(client.list("imaplib", "*")))
assert b"imaplib/renamed" in names and b"imaplib/copied" not in names, names
ok(client.delete("imaplib/renamed"))
ok(client.unsubscribe("imaplib"))
ok(client.delete("imaplib"))
steps.append("rename and delete")
client.logout()
json.dump({"got": got, "steps": steps}, sys.stdout)
