/** Which mounts are not for mail, and which may leave a process hanging: by type and by path. */

/** What the kernel shows of itself, memory, images that nobody writes to, and what containers are built of. */
const otherTypes: ReadonlySet<string> = new Set(
  `autofs aufs bdev binder binfmt_misc bpf cd9660 cgroup cgroup2 configfs coredumpfs cpuset cramfs dax debugfs devfs devpts
   devtmpfs drm efivarfs erofs fdescfs functionfs fusectl fuse.archivemount fuse.gvfsd-fuse fuse.lxcfs
   fuse.portal fuse.snapfuse fuse.squashfuse fuse.squashfuse_ll hugetlbfs iso9660 kernfs linprocfs linsysfs lxcfs mfs mqueue
   nfsd nsfs overlay fuse.fuse-overlayfs pipefs proc procfs pstore ptyfs ramfs resctrl romfs rootfs rpc_pipefs securityfs
   selinuxfs smackfs sockfs squashfs swap sysfs tmpfs tracefs udf volfs`.split(/\s+/),
)

/** What systems, packages of images and containers mount for themselves, and what is put in and out. Everything below, too. */
const otherPaths: readonly string[] = `/boot /cdrom /dev /efi /etc /gnu/store /lib /media /mnt/wsl /mnt/wslg /nix/store
  /private/var/vm /proc /run /snap /sys /System /tmp /usr /usr/lib/wsl /var/cache /var/lib/cni /var/lib/containerd
  /var/lib/containers /var/lib/docker /var/lib/flatpak /var/lib/incus /var/lib/kubelet /var/lib/lxc /var/lib/lxcfs
  /var/lib/lxd /var/lib/machines /var/lib/nfs /var/lib/rancher /var/lib/snapd /var/log /var/run /var/snap /var/tmp
  /Volumes/Recovery`.split(/\s+/)

/** Their server may be gone, or they are whatever a program makes of them. */
const farTypes: ReadonlySet<string> = new Set(
  `9p afpfs afs autofs beegfs ceph cifs coda davfs fhgfs fuse fuseblk gfs2 glusterfs gpfs lustre macfuse ncp ncpfs nfs nfs4
   ocfs2 orangefs osxfuse panfs pvfs2 pvfs smb smb2 smb3 smbfs vboxsf virtiofs vmhgfs webdav`.split(/\s+/),
)

export function isOtherType(type: string): boolean {
  return otherTypes.has(type)
}

export function isOtherPath(path: string): boolean {
  return otherPaths.some((other) => isWithin(path, other))
}

/** Whether a call on it may never return. */
export function mayHang(type: string): boolean {
  return farTypes.has(type) || type.startsWith('fuse.')
}

/** Whether `path` is `directory` or below it. */
export function isWithin(path: string, directory: string): boolean {
  return path === directory || directory === '/' || (path.startsWith(directory) && path[directory.length] === '/')
}
