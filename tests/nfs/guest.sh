#!/bin/sh
# The init of a guest: brings up its network, serves or mounts NFS, and then runs the commands that the
# driver (`__main__.py`) leaves in its folder. The kernel's command line says who it is.
mount -t proc proc /proc
for word in $(cat /proc/cmdline); do
    case $word in NFS_*=*) export "$word" ;; esac
done
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/mnt TMPDIR=/mnt/tmp LC_ALL=C
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /mnt
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -p /mnt/tmp /run/rpc_pipefs /mnt/ctl /mnt/nfs /mnt/disk /var/lib/nfs/v4recovery /run/lock
# The machine need not have the guest's modules where its own would be.
mkdir -p /run/kernel/lib && ln -s "$NFS_MODULES" /run/kernel/lib/modules
printf '#!/bin/sh\nexec /sbin/modprobe -d /run/kernel "$@"\n' >/run/modprobe && chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
mount -t hostfs -o "$NFS_DIR/$NFS_NAME" none /mnt/ctl
hostname "$NFS_NAME"
ip link set lo up
ip addr add "$NFS_ADDRESS/24" dev eth0
ip link set eth0 up
echo 0 >/proc/sys/kernel/panic_on_oops

serve() {
    mount -t ext4 -o noatime /dev/ubda /mnt/disk || return
    chmod 1777 /mnt/disk
    /run/modprobe nfsd && mount -t nfsd nfsd /proc/fs/nfsd || return
    mkdir -p /run/etc && : >/run/etc/exports
    touch /var/lib/nfs/etab /var/lib/nfs/rmtab
    exportfs -i -o rw,no_root_squash,no_subtree_check,fsid=0,sync "10.9.8.0/24:/mnt/disk" || return
    # Both to the same: a lease that is not renewed for so long has ended.
    echo "$NFS_LEASE" >/proc/fs/nfsd/nfsv4leasetime
    echo "$NFS_LEASE" >/proc/fs/nfsd/nfsv4gracetime
    rpc.mountd --no-nfs-version 3 --no-nfs-version 2 || rpc.mountd --no-nfs-version 3
    rpc.nfsd --no-nfs-version 3 --no-udp 8 || rpc.nfsd -N 3 8
    # Nobody had a lock before: nothing is to be reclaimed.
    echo Y >/proc/fs/nfsd/v4_end_grace
}

join() {
    /run/modprobe nfsv4
    n=0
    until mount -t nfs4 -o "$NFS_OPTIONS" 10.9.8.1:/ /mnt/nfs; do
        n=$((n + 1)) && [ "$n" -lt 60 ] || return
        sleep 0.5
    done
}

case $NFS_NAME in server) serve ;; *) join ;; esac
echo "$?" >/mnt/ctl/up.new && mv /mnt/ctl/up.new /mnt/ctl/up

while :; do
    for command in /mnt/ctl/*.sh; do
        [ -e "$command" ] || continue
        of=${command%.sh}
        mv "$command" "$of.runs"
        (
            sh "$of.runs" >"$of.out" 2>&1 </dev/null
            echo "$?" >"$of.rc.new" && mv "$of.rc.new" "$of.rc"
        ) &
    done
    sleep 0.1
done
