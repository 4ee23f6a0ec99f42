/**
 * Secrets of users: hashing and verification.
 *
 * FORMAT  {PLAIN}text
 *         {ARGON2ID}$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH     PHC string, base64 without padding
 *         {SCRYPT}$scrypt$ln=LOG2N,r=R,p=P$SALT$HASH                    PHC string, base64 without padding
 *
 * INVARIANTS
 *   1. Comparison takes the same time wherever the difference is.
 *   2. Parameters are bounded before they are used: a line of a users file cannot make the server allocate what it likes.
 */
import { argon2, createHash, randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { ServerError } from './error.ts'

export type SecretScheme = 'PLAIN' | 'ARGON2ID' | 'SCRYPT'
export const SECRET_SCHEMES: readonly SecretScheme[] = ['PLAIN', 'ARGON2ID', 'SCRYPT']

/** Largest memory a stored secret may ask for, in KiB. */
export const SECRET_MEMORY_MAX_KIB: number = 1 << 20
/** Most passes (ARGON2ID) or lanes a stored secret may ask for. */
export const SECRET_PASSES_MAX = 64
const SALT_BYTES = 16
const HASH_BYTES = 32
// RFC 9106 §4 leaves the choice to the application; these are the widely used minimum for interactive logins.
const ARGON2_KIB = 19_456
const ARGON2_PASSES = 2
const SCRYPT_LOG2 = 15
const SCRYPT_R = 8

export type Secret =
  | { readonly scheme: 'PLAIN'; readonly text: string }
  | {
      readonly scheme: 'ARGON2ID'
      readonly memoryKib: number
      readonly passes: number
      readonly lanes: number
      readonly salt: Buffer
      readonly hash: Buffer
    }
  | {
      readonly scheme: 'SCRYPT'
      readonly log2: number
      readonly r: number
      readonly p: number
      readonly salt: Buffer
      readonly hash: Buffer
    }

const ARGON2_PHC =
  /^\$argon2id\$v=19\$m=(\d{1,8}),t=(\d{1,4}),p=(\d{1,3})\$([A-Za-z0-9+/]{8,128})\$([A-Za-z0-9+/]{16,128})$/
const SCRYPT_PHC = /^\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]{8,128})\$([A-Za-z0-9+/]{16,128})$/

/** Reads `{SCHEME}secret`. A string says, for people, what is wrong with it. */
export function parseSecret(text: string): Secret | string {
  const match = /^\{([A-Za-z0-9-]+)\}(.*)$/s.exec(text)
  if (match === null) return 'the secret does not begin with {PLAIN}, {ARGON2ID} or {SCRYPT}'
  const [, scheme, rest] = match
  if (scheme === 'PLAIN') return rest === '' ? 'the secret is empty' : { scheme, text: rest! }
  if (scheme === 'ARGON2ID') {
    const parts = ARGON2_PHC.exec(rest!)
    if (parts === null) return 'the secret is no argon2id string ($argon2id$v=19$m=…,t=…,p=…$salt$hash)'
    const [memoryKib, passes, lanes] = [Number(parts[1]), Number(parts[2]), Number(parts[3])]
    if (memoryKib < 8 * lanes || memoryKib > SECRET_MEMORY_MAX_KIB) return `m=${memoryKib} is out of bounds`
    if (passes < 1 || passes > SECRET_PASSES_MAX) return `t=${passes} is out of bounds`
    if (lanes < 1 || lanes > SECRET_PASSES_MAX) return `p=${lanes} is out of bounds`
    return { scheme, memoryKib, passes, lanes, salt: base64(parts[4]!), hash: base64(parts[5]!) }
  }
  if (scheme === 'SCRYPT') {
    const parts = SCRYPT_PHC.exec(rest!)
    if (parts === null) return 'the secret is no scrypt string ($scrypt$ln=…,r=…,p=…$salt$hash)'
    const [log2, r, p] = [Number(parts[1]), Number(parts[2]), Number(parts[3])]
    if (log2 < 1 || r < 1 || (2 ** log2 * r) / 8 > SECRET_MEMORY_MAX_KIB) return `ln=${log2},r=${r} is out of bounds`
    if (p < 1 || p > SECRET_PASSES_MAX) return `p=${p} is out of bounds`
    return { scheme, log2, r, p, salt: base64(parts[4]!), hash: base64(parts[5]!) }
  }
  return `{${scheme}} is not a scheme known here (PLAIN, ARGON2ID, SCRYPT)`
}

/** `{SCHEME}secret` for a password, with a fresh salt. */
export async function hashSecret(scheme: SecretScheme, password: string): Promise<string> {
  if (password === '') throw new ServerError('SERVER_BAD_USER', 'an empty password')
  if (/[\r\n\0]/.test(password)) throw new ServerError('SERVER_BAD_USER', 'a password with a line break or NUL')
  if (scheme === 'PLAIN') {
    if (password.includes(':'))
      throw new ServerError('SERVER_BAD_USER', 'a {PLAIN} secret cannot hold a colon; use ARGON2ID or SCRYPT')
    return `{PLAIN}${password}`
  }
  const salt = randomBytes(SALT_BYTES)
  if (scheme === 'ARGON2ID') {
    const secret: Secret = {
      scheme,
      memoryKib: ARGON2_KIB,
      passes: ARGON2_PASSES,
      lanes: 1,
      salt,
      hash: Buffer.alloc(HASH_BYTES),
    }
    const hash = await derive(secret, password)
    return `{ARGON2ID}$argon2id$v=19$m=${ARGON2_KIB},t=${ARGON2_PASSES},p=1$${phc(salt)}$${phc(hash)}`
  }
  const secret: Secret = { scheme, log2: SCRYPT_LOG2, r: SCRYPT_R, p: 1, salt, hash: Buffer.alloc(HASH_BYTES) }
  return `{SCRYPT}$scrypt$ln=${SCRYPT_LOG2},r=${SCRYPT_R},p=1$${phc(salt)}$${phc(await derive(secret, password))}`
}

/** Whether `password` is the secret's. Costs what the scheme costs. */
export async function verifySecret(secret: Secret, password: string): Promise<boolean> {
  if (secret.scheme === 'PLAIN') return timingSafeEqual(digest(secret.text), digest(password))
  return timingSafeEqual(await derive(secret, password), secret.hash)
}

/** A secret that no password has, of the same cost as `like`: what an unknown user is checked against. */
export function decoySecret(like: Secret): Secret {
  if (like.scheme === 'PLAIN') return { scheme: 'PLAIN', text: randomBytes(HASH_BYTES).toString('hex') }
  return { ...like, salt: randomBytes(like.salt.length), hash: randomBytes(like.hash.length) }
}

function derive(secret: Exclude<Secret, { scheme: 'PLAIN' }>, password: string): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>()
  const done = (error: Error | null, key: Buffer): void => {
    if (error === null) resolve(key)
    else reject(error)
  }
  const message = Buffer.from(password)
  if (secret.scheme === 'ARGON2ID')
    argon2(
      'argon2id',
      {
        message,
        nonce: secret.salt,
        parallelism: secret.lanes,
        tagLength: secret.hash.length,
        memory: secret.memoryKib,
        passes: secret.passes,
      },
      done,
    )
  else {
    const N = 2 ** secret.log2
    const maxmem = 256 * N * secret.r + (1 << 20)
    scrypt(message, secret.salt, secret.hash.length, { N, r: secret.r, p: secret.p, maxmem }, done)
  }
  return promise
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
function base64(text: string): Buffer {
  return Buffer.from(text, 'base64')
}
function phc(bytes: Buffer): string {
  return bytes.toString('base64').replace(/=+$/, '')
}
