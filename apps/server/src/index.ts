export { attachmentsRoot } from './lib/attachments-root.ts'
export {
  type AttachmentDomain,
  type AttachmentSettings,
  type Config,
  ConfigError,
  emptyConfig,
  type NamespaceConfig,
  parseConfig,
  readConfig,
} from './lib/config.ts'
export {
  checkDataDirectory,
  hasUserIndex,
  initDataDirectory,
  lockBeside,
  openUserStore,
  rebuildUserStore,
  storeDirectories,
  userStorage,
  type UserStoreOptions,
  USERS_FILE,
} from './lib/data-directory.ts'
export { mustHaveRoots, notAStore, overlap, type RemoveStoreOptions, removeUserStore } from './lib/remove-store.ts'
export { readyLine, serveUntilStopped, startFromSettings } from './lib/serve.ts'
export { serveCommand, withServeFlags } from './lib/serve-command.ts'
export { type ServeFlags, type Settings, settingsOf, stateDirectory } from './lib/settings.ts'
export { startDemo } from './lib/start-demo.ts'
export { mayBeMade, type Mounts, mustBeMounted, openMounts } from './lib/mounts.ts'
export { checkRootDirectory, initRootDirectory } from './lib/roots.ts'
export { type BoxSettings, STORAGE, userBox } from './lib/user-box.ts'
export { accessOptions, globalAcl, publicConfig, publicUser, registryFs } from './lib/shared-mail.ts'
