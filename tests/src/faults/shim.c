/* Stands between a node and the system (LD_PRELOAD) and makes its disk slow, its syncs fail or its
 * wall clock wrong, as a small shared file says at the moment of each call. The file is mapped, so
 * asking it costs nothing; the tests write it (shim.rs).
 *
 * The monotonic clock stays true. pthread_cond_timedwait takes absolute wall-clock time, which a
 * caller computed from the false clock: it is turned back, or threads would spin or oversleep.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NANOS_PER_SECOND 1000000000LL

struct control {
    int64_t sync_delay_us;
    int64_t sync_fails;
    int64_t wall_offset_us;
};

static const struct control truth;
static const volatile struct control *control = &truth;

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("CAIRN_SHIM_CONTROL");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof truth, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) control = mapped;
}

/* What every sync does first: waits, and perhaps fails. */
static int before_sync(void) {
    int64_t delay_us = control->sync_delay_us;
    if (delay_us > 0) {
        struct timespec left = {delay_us / 1000000, delay_us % 1000000 * 1000};
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {}
    }
    if (control->sync_fails) {
        errno = EIO;
        return -1;
    }
    return 0;
}

int fsync(int file) { return before_sync() ? -1 : (int)syscall(SYS_fsync, file); }

int fdatasync(int file) { return before_sync() ? -1 : (int)syscall(SYS_fdatasync, file); }

static void shift(struct timespec *time, int64_t offset_us) {
    int64_t nanos = time->tv_nsec + offset_us % 1000000 * 1000;
    time->tv_sec += offset_us / 1000000;
    if (nanos < 0) {
        nanos += NANOS_PER_SECOND;
        time->tv_sec -= 1;
    } else if (nanos >= NANOS_PER_SECOND) {
        nanos -= NANOS_PER_SECOND;
        time->tv_sec += 1;
    }
    time->tv_nsec = nanos;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int outcome = (int)syscall(SYS_clock_gettime, clock, time);
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (outcome == 0 && is_wall) shift(time, control->wall_offset_us);
    return outcome;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int outcome = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return outcome;
}

time_t time(time_t *out) {
    struct timespec now = {0, 0};
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    struct timespec real = *until;
    shift(&real, -control->wall_offset_us);
    return next(condition, mutex, &real);
}
