export type {
  AppendHead,
  AppendPart,
  Command,
  CommandName,
  ListReturn,
  ParsedCommand,
  SearchReturn,
} from './lib/command.ts'
export { formatDateTime, parseDate, parseDateTime } from './lib/date.ts'
export { formatFlags, formatMailboxName, formatQuoted, formatString, formatText } from './lib/format.ts'
export { defaultLimits, type ImapLimits } from './lib/limits.ts'
export { decodeModifiedUtf7, encodeModifiedUtf7 } from './lib/mailbox-name.ts'
export { parseAppendHead, parseAppendPart, parseCommand } from './lib/parse-command.ts'
export { CommandReader, type ReaderEvent, type ReaderLimits } from './lib/reader.ts'
export { ImapSyntaxError } from './lib/syntax-error.ts'
