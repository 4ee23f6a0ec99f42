/**
 * The mount table of a host that runs containers, as such hosts have it: some 200 mounts, of which two hold mail.
 * Ids, device numbers and digests are made up.
 */
const digest = (n: number): string => (n * 2_654_435_761).toString(16).padStart(12, '0').repeat(6).slice(0, 64)

export function oddMountinfo(mail: readonly string[]): string {
  let id = 20
  const lines: string[] = []
  const mount = (path: string, type: string, source: string, root = '/', optional = 'shared:1'): void => {
    id++
    const parent = path === '/' ? 1 : 21
    lines.push(
      `${id} ${parent} 0:${id} ${root} ${path} rw,relatime ${optional}${optional === '' ? '' : ' '}- ${type} ${source} rw`,
    )
  }
  mount('/', 'ext4', '/dev/mapper/vg-root')
  mount('/proc', 'proc', 'proc')
  mount('/sys', 'sysfs', 'sysfs')
  mount('/dev', 'devtmpfs', 'udev')
  mount('/dev/pts', 'devpts', 'devpts')
  mount('/dev/shm', 'tmpfs', 'tmpfs')
  mount('/dev/mqueue', 'mqueue', 'mqueue')
  mount('/dev/hugepages', 'hugetlbfs', 'hugetlbfs')
  mount('/run', 'tmpfs', 'tmpfs')
  mount('/run/lock', 'tmpfs', 'tmpfs')
  mount('/run/rpc_pipefs', 'rpc_pipefs', 'sunrpc')
  mount('/proc/sys/fs/binfmt_misc', 'autofs', 'systemd-1')
  mount('/proc/fs/nfsd', 'nfsd', 'nfsd')
  for (const name of [
    'security',
    'kernel/debug',
    'kernel/tracing',
    'kernel/config',
    'fs/pstore',
    'fs/bpf',
    'fs/fuse/connections',
  ])
    mount(`/sys/${name}`, ['securityfs', 'debugfs', 'tracefs', 'configfs', 'pstore', 'bpf', 'fusectl'][id % 7]!, 'none')
  for (const name of ['cpu', 'memory', 'pids', 'blkio', 'devices', 'freezer', 'unified', 'systemd'])
    mount(`/sys/fs/cgroup/${name}`, name === 'unified' ? 'cgroup2' : 'cgroup', 'cgroup')
  mount('/boot', 'ext2', '/dev/sda1')
  mount('/boot/efi', 'vfat', '/dev/sda15')
  for (let i = 0; i < 32; i++)
    mount(`/snap/core${i % 3}/${i}`, 'squashfs', `/dev/loop${i}`, '/', i % 2 === 0 ? '' : 'shared:7 master:3')
  mount('/var/lib/lxcfs', 'fuse.lxcfs', 'lxcfs')
  mount('/var/lib/docker', 'xfs', '/dev/mapper/vg-docker')
  for (let i = 0; i < 30; i++) {
    mount(`/var/lib/docker/overlay2/${digest(i)}/merged`, 'overlay', 'overlay', '/', '')
    mount(`/var/lib/docker/containers/${digest(i)}/mounts/shm`, 'tmpfs', 'shm', '/', '')
    mount(`/run/docker/netns/${digest(i).slice(0, 12)}`, 'nsfs', 'nsfs', `net:[${4_026_531_840 + i}]`, '')
  }
  for (let i = 0; i < 20; i++) {
    const pod = `/var/lib/kubelet/pods/${digest(100 + i)}/volumes`
    mount(`${pod}/kubernetes.io~projected/kube-api-access-${i}`, 'tmpfs', 'tmpfs', '/', '')
    mount(`${pod}/kubernetes.io~csi/pvc-${i}/mount`, 'ext4', `/dev/sd${String.fromCharCode(99 + i)}`, '/', '')
  }
  mount('/run/user/1000', 'tmpfs', 'tmpfs')
  mount('/run/user/1000/gvfs', 'fuse.gvfsd-fuse', 'gvfsd-fuse')
  mount('/run/user/1000/doc', 'fuse.portal', 'portal')
  mount('/media/anna/USB\\040STICK', 'vfat', '/dev/sdx1')
  mount('/cdrom', 'iso9660', '/dev/sr0')
  mount('/tmp/.mount_AppImage', 'fuse.squashfuse', 'app.AppImage')
  mount('/etc/hosts', 'ext4', '/dev/mapper/vg-docker', '/containers/hosts')
  mount('/etc/resolv.conf', 'ext4', '/dev/mapper/vg-docker', '/containers/resolv.conf')
  mount('/net', 'autofs', '-hosts')
  mount('/home', 'nfs4', 'files.example:/home')
  mount('/srv/www', 'xfs', '/dev/sdw1')
  for (const [i, path] of mail.entries()) mount(path, 'xfs', `/dev/mapper/vg-mail${i}`)
  return `${lines.join('\n')}\n`
}
