/* Sets the clocks of a program, while it runs, by what a file says: SHIM_CLOCK names a file with two
 * numbers, seconds to add to the wall clock and to CLOCK_BOOTTIME. CLOCK_MONOTONIC stays, as it does
 * when a machine sleeps or its clock is set.
 *     cc -shared -fPIC -o clock_shim.so clock_shim.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void ahead(long long *wall, long long *boot) {
    char text[64] = {0};
    const char *path = getenv("SHIM_CLOCK");
    *wall = *boot = 0;
    if (!path) return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (read(fd, text, sizeof text - 1) > 0) sscanf(text, "%lld %lld", wall, boot);
    close(fd);
}

int clock_gettime(clockid_t id, struct timespec *t) {
    long long wall, boot;
    int rc = syscall(SYS_clock_gettime, id, t);
    if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_BOOTTIME)) {
        ahead(&wall, &boot);
        t->tv_sec += id == CLOCK_BOOTTIME ? boot : wall;
    }
    return rc;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec s;
    int rc = clock_gettime(CLOCK_REALTIME, &s);
    (void)zone;
    t->tv_sec = s.tv_sec;
    t->tv_usec = s.tv_nsec / 1000;
    return rc;
}

time_t time(time_t *out) {
    struct timespec s;
    clock_gettime(CLOCK_REALTIME, &s);
    if (out) *out = s.tv_sec;
    return s.tv_sec;
}
