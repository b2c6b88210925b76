/* A file system without a rename that replaces nothing, as NFS is.
 *     cc -shared -fPIC -o steps_shim.so steps_shim.c */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    if (flags) {
        errno = EINVAL;
        return -1;
    }
    return syscall(SYS_renameat2, from_dir, from, to_dir, to, flags);
}
