/** Telling whoever runs the server what is damaged, and where, as far as the layers below know. */
import type { OnServerEvent } from './events.ts'
import { isDamage, storeCodeOf } from './store-errors.ts'

/** Tells of an error, if it is damage: once, however many see it on its way up. */
export function tellDamage(
  onEvent: OnServerEvent,
  error: unknown,
  where: { mailbox?: string; uid?: number } = {},
): void {
  if (!isDamage(error) || (error instanceof Error && told.has(error))) return
  if (error instanceof Error) told.add(error)
  const { mailbox, uid } = where
  const place = mailbox === undefined ? '' : ` of ${mailbox}`
  const what =
    uid !== undefined
      ? `message ${uid}${place}`
      : storeCodeOf(error) === 'STORE_DAMAGED'
        ? `a message${place}`
        : mailbox === undefined
          ? 'the mail store'
          : `the index${place}`
  onEvent({
    level: 'error',
    kind: 'damaged',
    message: `${what} is damaged: ${error instanceof Error ? error.message : String(error)}`,
    ...where,
    ...placeOf(error),
    error,
  })
}

const told = new WeakSet<Error>()

/** The damaged messages of a mailbox: of each is told once, clients ask again and again. */
export class DamagedMessages {
  readonly #onEvent: OnServerEvent
  readonly #mailbox: string
  readonly #told = new Set<number>()

  constructor(onEvent: OnServerEvent, mailbox: string) {
    this.#onEvent = onEvent
    this.#mailbox = mailbox
  }

  /** `uid`: of the message, where it is known. */
  tell(error: unknown, uid: number | undefined): void {
    if (uid !== undefined) {
      if (this.#told.has(uid)) return
      this.#told.add(uid)
    }
    tellDamage(this.#onEvent, error, uid === undefined ? { mailbox: this.#mailbox } : { mailbox: this.#mailbox, uid })
  }
}

/** File and offset, or table: of the innermost error that names them. */
function placeOf(error: unknown): Record<string, unknown> {
  const place: Record<string, unknown> = {}
  for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
    const { file, path, offset, table } = cause as { file?: unknown; path?: unknown; offset?: unknown; table?: unknown }
    if (typeof file === 'string') place['file'] = file
    else if (typeof path === 'string') place['file'] = path
    if (typeof offset === 'number') place['offset'] = offset
    if (typeof table === 'string') place['table'] = table
  }
  return place
}
