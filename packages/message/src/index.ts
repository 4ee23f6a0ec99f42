export type { Address } from './lib/address.ts'
export { MISSING_DOMAIN, MISSING_MAILBOX, parseAddressList } from './lib/address.ts'
export { decodeBody } from './lib/body.ts'
export type { TextReader } from './lib/charset.ts'
export { decodeText, isKnownCharset, textReaders } from './lib/charset.ts'
export type { MessageDate } from './lib/date.ts'
export { parseDate } from './lib/date.ts'
export { decodeEncodedWords } from './lib/encoded-words.ts'
export type { Envelope } from './lib/envelope.ts'
export { parseEnvelope } from './lib/envelope.ts'
export type { MessageErrorCode } from './lib/errors.ts'
export { MessageError } from './lib/errors.ts'
export { FieldNames } from './lib/field-names.ts'
export type { HeaderFields } from './lib/header.ts'
export { filterHeader, parseHeader } from './lib/header.ts'
export type { ScanOptions } from './lib/limits.ts'
export { ScanLimits } from './lib/limits.ts'
export { messageIds } from './lib/message-ids.ts'
export { decodeStructure, encodeStructure } from './lib/parts-format.ts'
export type { ContentType } from './lib/parameters.ts'
export { parseContentType, parseDisposition } from './lib/parameters.ts'
export type { ScanEvents } from './lib/scanner.ts'
export { canonicalBytes, MessageScanner, scanMessage } from './lib/scanner.ts'
export type { ByteRange, Section } from './lib/section.ts'
export { parseSection, partAt, sectionRange } from './lib/section.ts'
export type {
  ByteString,
  Disposition,
  MessagePart,
  MessageStructure,
  Parameters,
  PartKind,
  Quirk,
} from './lib/structure.ts'
export { bodyParameters, parameter, tidyBlanks } from './lib/structure.ts'
export type { BaseSubject } from './lib/subject.ts'
export { baseSubject } from './lib/subject.ts'
