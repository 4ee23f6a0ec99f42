/** Structured logs: one JSON object a line, on standard error. */
import type { ServerEvent } from '@mailstead/server'
import { destination, type Logger, pino } from 'pino'
import type { LogLevel } from './config.ts'

/** Written at once, so that the last lines of a process that dies are there. */
export function serverLog(level: LogLevel = 'info'): Logger {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination({ fd: 2, sync: true }))
}

/** For `startServer`'s `onEvent`. */
export function eventLog(log: Logger): (event: ServerEvent) => void {
  return ({ level, message, error, ...fields }) => {
    if (!log.isLevelEnabled(level)) return
    log[level](error === undefined ? fields : { ...fields, err: error }, message)
  }
}
