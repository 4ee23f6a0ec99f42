export { type Config, ConfigError, emptyConfig, parseConfig, readConfig } from './lib/config.ts'
export {
  checkDataDirectory,
  initDataDirectory,
  lockBeside,
  openUserStore,
  rebuildUserStore,
  storeDirectories,
  userFs,
  type UserStoreOptions,
  USERS_FILE,
} from './lib/data-directory.ts'
export { readyLine, serveUntilStopped, startFromSettings } from './lib/serve.ts'
export { serveCommand, withServeFlags } from './lib/serve-command.ts'
export { type ServeFlags, type Settings, settingsOf } from './lib/settings.ts'
export { startDemo } from './lib/start-demo.ts'
export { type BoxSettings, initAlternateDirectory, STORAGE, userBox } from './lib/user-box.ts'
