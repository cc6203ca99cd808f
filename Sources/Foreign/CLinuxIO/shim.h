// The kernel interfaces of Linux that Swift cannot import by itself: io_uring as raw system calls
// (Protocol/Decisions/0001), variadic functions, function-like macros and atomic access to rings
// shared with the kernel. Thin wrappers only: every decision is made in Swift.
//
// Calls of the `sluice_` family return a value >= 0, or -errno; they never touch `errno` for the
// caller.
//
// _GNU_SOURCE stays undefined: Swift's Glibc module is built without it, and the same header read
// both ways makes two definitions of one type, which clang refuses in every importer of both.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>

// ---------------------------------------------------------------------------------------------
// Variadic functions and macros

static inline int sluice_result(long value) { return value < 0 ? -errno : (int)value; }

static inline int sluice_prctl(int option, unsigned long value) {
    return sluice_result(prctl(option, value, 0UL, 0UL, 0UL));
}

static inline int sluice_open(const char *path, int flags, mode_t mode) {
    int descriptor;
    do { descriptor = open(path, flags | O_CLOEXEC, mode); } while (descriptor < 0 && errno == EINTR);
    return sluice_result(descriptor);
}

static inline int sluice_openat(int directory, const char *path, int flags, mode_t mode) {
    int descriptor;
    do {
        descriptor = openat(directory, path, flags | O_CLOEXEC, mode);
    } while (descriptor < 0 && errno == EINTR);
    return sluice_result(descriptor);
}

static inline int sluice_fcntl(int descriptor, int command, long value) {
    return sluice_result(fcntl(descriptor, command, value));
}

static inline int sluice_ioctl(int descriptor, unsigned long request, void *argument) {
    return sluice_result(ioctl(descriptor, request, argument));
}

/// Reserves every block of [offset, offset + length); a full file system says so here (-ENOSPC)
/// and not by SIGBUS at the first store.
static inline int sluice_fallocate(int descriptor, off_t offset, off_t length) {
    int code;
    do { code = posix_fallocate(descriptor, offset, length); } while (code == EINTR);
    return -code;
}

static inline int sluice_flock_exclusive(int descriptor) {
    return sluice_result(flock(descriptor, LOCK_EX | LOCK_NB));
}

static inline int sluice_fdatasync(int descriptor) { return sluice_result(fdatasync(descriptor)); }

static inline int sluice_errno(void) { return errno; }

/// Gives a signal its default disposition.
static inline void sluice_default_signal(int signal_number) { signal(signal_number, SIG_DFL); }
static inline void sluice_ignore_signal(int signal_number) { signal(signal_number, SIG_IGN); }

// ---------------------------------------------------------------------------------------------
// Memory

/// Private zeroed pages, or NULL.
static inline void *sluice_map_anonymous(size_t bytes) {
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? NULL : base;
}

/// Maps a file for sharing, or NULL. `writable` 0 maps it read-only.
static inline void *sluice_map_shared(int descriptor, size_t bytes, int writable) {
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, bytes, protection, MAP_SHARED, descriptor, 0);
    return base == MAP_FAILED ? NULL : base;
}

#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

/// Locks pages as they are first touched, so that a large region costs nothing until it is used.
static inline int sluice_lock_on_fault(void *base, size_t bytes) {
    return sluice_result(syscall(SYS_mlock2, base, bytes, MLOCK_ONFAULT));
}

static inline int sluice_madvise(void *base, size_t bytes, int advice) {
    return sluice_result(madvise(base, bytes, advice));
}

static inline void sluice_wipe(void *base, size_t bytes) { explicit_bzero(base, bytes); }

static inline uint32_t sluice_load_acquire(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/// The same for mapped memory that starts at a page and may never have been used: pages that are
/// not there hold nothing, and wiping them would bring them in.
static inline void sluice_wipe_resident(void *start, size_t count) {
    unsigned char resident[1024];
    size_t page = (size_t)getpagesize();
    for (size_t done = 0; done < count;) {
        size_t part = count - done < page * 1024 ? count - done : page * 1024;
        char *from = (char *)start + done;
        if (mincore(from, part, resident) < 0) {
            sluice_wipe(from, part);
        } else {
            for (size_t index = 0; index * page < part; index++) {
                if (!(resident[index] & 1)) continue;
                size_t left = part - index * page;
                sluice_wipe(from + index * page, left < page ? left : page);
            }
        }
        done += part;
    }
}

static inline uint32_t sluice_load_relaxed(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void sluice_store_release(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline uint64_t sluice_load_acquire64(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline uint64_t sluice_load_relaxed64(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void sluice_store_release64(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void sluice_store_relaxed64(uint64_t *word, uint64_t value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void sluice_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---------------------------------------------------------------------------------------------
// Clocks and processors

static inline uint64_t sluice_clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static inline uint64_t sluice_monotonic_ns(void) { return sluice_clock_ns(CLOCK_MONOTONIC); }
static inline uint64_t sluice_wall_ns(void) { return sluice_clock_ns(CLOCK_REALTIME); }

/// Keeps the calling thread on one processor, 0..<1,024.
static inline int sluice_pin_thread(int processor) {
    unsigned long mask[1024 / (8 * sizeof(unsigned long))] = { 0 };
    const int width = (int)(8 * sizeof(unsigned long));
    if (processor < 0 || processor >= 1024) return -EINVAL;
    mask[processor / width] = 1UL << (processor % width);
    return sluice_result(syscall(SYS_sched_setaffinity, 0, sizeof mask, mask));
}

/// Adds one processor to a mask of `bytes` bytes; -EINVAL if it lies outside.
static inline int sluice_mask_add(unsigned long *mask, size_t bytes, int processor) {
    const int width = (int)(8 * sizeof(unsigned long));
    if (processor < 0 || (size_t)(processor / 8) >= bytes) return -EINVAL;
    mask[processor / width] |= 1UL << (processor % width);
    return 0;
}

/// Keeps the calling thread on the processors of a mask; what it starts inherits that.
static inline int sluice_restrict_thread(const unsigned long *mask, size_t bytes) {
    return sluice_result(syscall(SYS_sched_setaffinity, 0, bytes, mask));
}

/// How late the kernel may wake the calling thread to save wake-ups, nanoseconds (1 = on time).
static inline int sluice_set_timer_slack(unsigned long ns) {
    return sluice_prctl(PR_SET_TIMERSLACK, ns);
}

/// The n-th processor that the calling thread may use, or -1.
static inline int sluice_allowed_processor(int n) {
    unsigned long mask[1024 / (8 * sizeof(unsigned long))] = { 0 };
    const int width = (int)(8 * sizeof(unsigned long));
    if (syscall(SYS_sched_getaffinity, 0, sizeof mask, mask) < 0) return -1;
    for (int processor = 0; processor < 1024; processor++)
        if ((mask[processor / width] >> (processor % width) & 1) && n-- == 0) return processor;
    return -1;
}

// ---------------------------------------------------------------------------------------------
// Sockets, events, signals

/// Switches O_NONBLOCK.
static inline int sluice_set_nonblocking(int descriptor, int on) {
    int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0) return -errno;
    flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    return sluice_result(fcntl(descriptor, F_SETFL, flags));
}

static inline int sluice_stream_socket(int family) {
    return sluice_result(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

static inline int sluice_set_option(int descriptor, int level, int option, int value) {
    return sluice_result(setsockopt(descriptor, level, option, &value, sizeof value));
}

static inline int sluice_accept(int listener) {
    return sluice_result(
        syscall(SYS_accept4, listener, NULL, NULL, SOCK_CLOEXEC));
}

static inline ssize_t sluice_recv(int descriptor, void *buffer, size_t bytes) {
    ssize_t count = recv(descriptor, buffer, bytes, MSG_DONTWAIT);
    return count < 0 ? -errno : count;
}

static inline ssize_t sluice_send(int descriptor, const void *buffer, size_t bytes) {
    ssize_t count = send(descriptor, buffer, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    return count < 0 ? -errno : count;
}

/// Parses a numeric address into `storage`; its length, or -EINVAL.
static inline int sluice_socket_address(
    const char *host, uint16_t port, struct sockaddr_storage *storage) {
    memset(storage, 0, sizeof *storage);
    struct sockaddr_in *four = (struct sockaddr_in *)storage;
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return (int)sizeof *four;
    }
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)storage;
    if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(port);
        return (int)sizeof *six;
    }
    return -EINVAL;
}

static inline int sluice_bind(int descriptor, const struct sockaddr_storage *address, int length) {
    return sluice_result(bind(descriptor, (const struct sockaddr *)address, (socklen_t)length));
}

static inline int sluice_connect(int descriptor, const struct sockaddr_storage *address, int length) {
    return sluice_result(connect(descriptor, (const struct sockaddr *)address, (socklen_t)length));
}

/// Begins to connect a blocking socket and does not wait for it: what is sent first waits until the
/// connection stands.
static inline int sluice_begin_connect(
    int descriptor, const struct sockaddr_storage *address, int length) {
    int code = sluice_set_nonblocking(descriptor, 1);
    if (code < 0) return code;
    code = sluice_connect(descriptor, address, length);
    if (code < 0 && code != -EINPROGRESS) return code;
    return sluice_set_nonblocking(descriptor, 0);
}

/// Reads up to and including a line feed from a blocking socket, at most `seconds` between two
/// bytes; the count, or -errno.
static inline int sluice_skip_line(int descriptor, int most, int seconds) {
    struct timeval limit = { .tv_sec = seconds }, none = { 0 };
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    int count = 0;
    char byte = 0;
    while (count < most && byte != '\n') {
        ssize_t got = recv(descriptor, &byte, 1, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? -errno : -ECONNRESET;
        count++;
    }
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
    return byte == '\n' ? count : -EMSGSIZE;
}

/// The port a socket is bound to, or -errno.
static inline int sluice_local_port(int descriptor) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    if (getsockname(descriptor, (struct sockaddr *)&address, &length) < 0) return -errno;
    if (address.ss_family == AF_INET) return ntohs(((struct sockaddr_in *)&address)->sin_port);
    if (address.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&address)->sin6_port);
    return -EAFNOSUPPORT;
}

static inline int sluice_eventfd(void) {
    return sluice_result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

static inline int sluice_eventfd_ring(int descriptor) {
    uint64_t one = 1;
    return sluice_result(write(descriptor, &one, sizeof one));
}

/// From now on glibc overwrites every block of the heap as it is freed.
static inline int sluice_wipe_freed_memory(void) {
    return mallopt(M_PERTURB, 0x55) == 1 ? 0 : -1;
}

/// Waits until the descriptor is readable, at most `timeout_ms`; 1 when it is, else 0.
static inline int sluice_wait_readable(int descriptor, int timeout_ms) {
    struct pollfd one = {descriptor, POLLIN, 0};
    return poll(&one, 1, timeout_ms) > 0;
}

/// Processors that this process may use, up to 1,024.
static inline int sluice_processor_count(void) {
    unsigned long mask[16] = {0};
    if (syscall(SYS_sched_getaffinity, 0, sizeof mask, mask) < 0) return 1;
    int count = 0;
    for (int word = 0; word < 16; word++) count += __builtin_popcountl(mask[word]);
    return count;
}

static inline void sluice_eventfd_drain(int descriptor) {
    uint64_t value;
    while (read(descriptor, &value, sizeof value) == (ssize_t)sizeof value) {}
}

/// Blocks three signals in the calling thread (threads made later inherit it) and opens a
/// descriptor that reports them.
static inline int sluice_signalfd(int first, int second, int third) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, first);
    sigaddset(&set, second);
    sigaddset(&set, third);
    int code = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (code != 0) return -code;
    return sluice_result(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

/// The next pending signal of a signalfd, 0 if there is none.
static inline int sluice_signalfd_next(int descriptor) {
    struct signalfd_siginfo info;
    return read(descriptor, &info, sizeof info) == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

/// Whether a descriptor is a socket that listens for stream connections.
static inline int sluice_is_listening(int descriptor) {
    int value = 0;
    socklen_t length = sizeof value;
    if (getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) < 0 || value == 0)
        return 0;
    length = sizeof value;
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &value, &length) == 0
        && value == SOCK_STREAM;
}

/// Bounds how long accept waits on a socket whose flags another process may have set to blocking.
static inline int sluice_bound_accept(int descriptor, int milliseconds) {
    struct timeval limit = { .tv_sec = 0, .tv_usec = milliseconds * 1000 };
    return sluice_result(
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
}

/// Sends one datagram to the socket of a service supervisor: a path, or an abstract name behind
/// '@'. 0, or -errno.
static inline int sluice_notify(const char *path, const char *message) {
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = strlen(path);
    if (length < 2 || length >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@'))
        return -EINVAL;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = 0;
    int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -errno;
    ssize_t count = sendto(
        descriptor, message, strlen(message), MSG_NOSIGNAL, (struct sockaddr *)&address,
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    int code = count < 0 ? -errno : 0;
    close(descriptor);
    return code;
}

// ---------------------------------------------------------------------------------------------
// epoll

static inline int sluice_epoll_create(void) { return sluice_result(epoll_create1(EPOLL_CLOEXEC)); }

static inline int sluice_epoll_add(int epoll, int descriptor, uint32_t events, uint64_t token) {
    struct epoll_event event = { .events = events, .data = { .u64 = token } };
    return sluice_result(epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event));
}

static inline int sluice_epoll_remove(int epoll, int descriptor) {
    struct epoll_event event = { 0 };
    return sluice_result(epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, &event));
}

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/// Waits at most `timeout_ns`, below 0 without end. Kernels before 5.11 round it up to milliseconds.
static inline int sluice_epoll_wait(
    int epoll, struct epoll_event *events, int count, int64_t timeout_ns) {
    if (timeout_ns <= 0) return sluice_result(epoll_wait(epoll, events, count, timeout_ns < 0 ? -1 : 0));
    struct __kernel_timespec time = {
        .tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000,
    };
    int code = sluice_result(syscall(SYS_epoll_pwait2, epoll, events, count, &time, NULL, 0));
    if (code != -ENOSYS) return code;
    int64_t timeout_ms = (timeout_ns + 999999) / 1000000;
    return sluice_result(
        epoll_wait(epoll, events, count, timeout_ms > INT32_MAX ? INT32_MAX : (int)timeout_ms));
}

static inline uint64_t sluice_epoll_token(const struct epoll_event *event) {
    return event->data.u64;
}

static const uint32_t SLUICE_EPOLL_READ = EPOLLIN;
static const uint32_t SLUICE_EPOLL_STREAM = (uint32_t)(EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
static const uint32_t SLUICE_EPOLL_READABLE = (uint32_t)(EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
static const uint32_t SLUICE_EPOLL_WRITABLE = (uint32_t)(EPOLLOUT | EPOLLHUP | EPOLLERR);

// ---------------------------------------------------------------------------------------------
// io_uring

#ifndef IORING_FEAT_MIN_TIMEOUT
#define IORING_FEAT_MIN_TIMEOUT (1U << 15)
#endif

static const uint32_t SLUICE_RING_FLAGS = IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL
    | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN
    | IORING_SETUP_R_DISABLED;
static const uint32_t SLUICE_RING_FEATURES = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP
    | IORING_FEAT_EXT_ARG;
static const uint32_t SLUICE_FEATURE_MIN_TIMEOUT = IORING_FEAT_MIN_TIMEOUT;
static const uint32_t SLUICE_CQE_MORE = IORING_CQE_F_MORE;
static const uint32_t SLUICE_CQE_BUFFER = IORING_CQE_F_BUFFER;
static const uint32_t SLUICE_CQE_BUFFER_SHIFT = 16;
static const uint32_t SLUICE_SQ_CQ_OVERFLOW = IORING_SQ_CQ_OVERFLOW;

static inline int sluice_ring_setup(uint32_t entries, struct io_uring_params *params) {
    return sluice_result(syscall(SYS_io_uring_setup, entries, params));
}

static inline int sluice_ring_register(int ring, uint32_t opcode, void *argument, uint32_t count) {
    return sluice_result(syscall(SYS_io_uring_register, ring, opcode, argument, count));
}

static inline int sluice_ring_enable(int ring) {
    return sluice_ring_register(ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static inline int sluice_ring_register_buffers(
    int ring, void *buffers, uint32_t entries, uint16_t group) {
    struct io_uring_buf_reg registration = {
        .ring_addr = (uint64_t)(uintptr_t)buffers, .ring_entries = entries, .bgid = group,
    };
    return sluice_ring_register(ring, IORING_REGISTER_PBUF_RING, &registration, 1);
}

/// Cancels everything that the ring has in hand and waits until it is done, at most a second.
static inline int sluice_ring_cancel_all(int ring) {
    struct io_uring_sync_cancel_reg cancel = {
        .fd = -1, .flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL,
        .timeout = { .tv_sec = 1 },
    };
    return sluice_ring_register(ring, IORING_REGISTER_SYNC_CANCEL, &cancel, 1);
}

/// Submits `submit` entries and waits for `complete` completions. `timeout_ns` < 0 waits without
/// end. `minimum_us` > 0 holds the wait open that long to gather more completions.
static inline int sluice_ring_enter(
    int ring, uint32_t submit, uint32_t complete, int64_t timeout_ns, uint32_t minimum_us) {
    struct __kernel_timespec time = {
        .tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000,
    };
    // The third field of this structure is `pad` in older headers, `min_wait_usec` in newer ones.
    struct { uint64_t mask; uint32_t mask_bytes; uint32_t minimum_us; uint64_t time; } argument = {
        .mask_bytes = _NSIG / 8, .minimum_us = minimum_us,
        .time = timeout_ns < 0 ? 0 : (uint64_t)(uintptr_t)&time,
    };
    return sluice_result(syscall(
        SYS_io_uring_enter, ring, submit, complete,
        IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument, sizeof argument));
}

/// Submits without waiting and without reaping.
static inline int sluice_ring_submit(int ring, uint32_t submit) {
    return sluice_result(syscall(SYS_io_uring_enter, ring, submit, 0, 0, NULL, 0));
}

static inline void *sluice_ring_map(int ring, size_t bytes, uint64_t offset) {
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, (off_t)offset);
    return base == MAP_FAILED ? NULL : base;
}

static const uint64_t SLUICE_RING_OFFSET_RINGS = IORING_OFF_SQ_RING;
static const uint64_t SLUICE_RING_OFFSET_ENTRIES = IORING_OFF_SQES;

static inline void sluice_prepare(
    struct io_uring_sqe *entry, uint8_t opcode, int descriptor, uint64_t user_data) {
    memset(entry, 0, sizeof *entry);
    entry->opcode = opcode;
    entry->fd = descriptor;
    entry->user_data = user_data;
}

static inline void sluice_prepare_nop(struct io_uring_sqe *entry, uint64_t user_data) {
    sluice_prepare(entry, IORING_OP_NOP, -1, user_data);
}

static inline void sluice_prepare_accept(
    struct io_uring_sqe *entry, int listener, uint64_t user_data) {
    sluice_prepare(entry, IORING_OP_ACCEPT, listener, user_data);
    entry->ioprio = IORING_ACCEPT_MULTISHOT;
    // Not SOCK_NONBLOCK: the ring fails an operation on such a socket with -EAGAIN at once.
    entry->accept_flags = SOCK_CLOEXEC;
}

static inline void sluice_prepare_receive(
    struct io_uring_sqe *entry, int descriptor, uint16_t group, uint64_t user_data) {
    sluice_prepare(entry, IORING_OP_RECV, descriptor, user_data);
    entry->ioprio = IORING_RECV_MULTISHOT;
    entry->flags = IOSQE_BUFFER_SELECT;
    entry->buf_group = group;
}

static inline void sluice_prepare_send(
    struct io_uring_sqe *entry, int descriptor, const void *bytes, uint32_t count,
    uint64_t user_data) {
    sluice_prepare(entry, IORING_OP_SEND, descriptor, user_data);
    entry->addr = (uint64_t)(uintptr_t)bytes;
    entry->len = count;
    entry->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
}

/// One notice when `descriptor` becomes readable.
static inline void sluice_prepare_poll(
    struct io_uring_sqe *entry, int descriptor, uint64_t user_data) {
    sluice_prepare(entry, IORING_OP_POLL_ADD, descriptor, user_data);
    entry->poll32_events = 0x0001;
}

/// Cancels every operation on `descriptor`.
static inline void sluice_prepare_cancel_descriptor(
    struct io_uring_sqe *entry, int descriptor, uint64_t user_data) {
    sluice_prepare(entry, IORING_OP_ASYNC_CANCEL, descriptor, user_data);
    entry->cancel_flags = IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL;
}

/// Cancels the operation that was submitted with `target` as its user data.
static inline void sluice_prepare_cancel(
    struct io_uring_sqe *entry, uint64_t target, uint64_t user_data) {
    sluice_prepare(entry, IORING_OP_ASYNC_CANCEL, -1, user_data);
    entry->addr = target;
}

/// Puts a buffer back at position `tail & mask` of a provided-buffer ring.
static inline void sluice_buffer_put(
    void *ring, uint16_t tail, uint16_t mask, void *bytes, uint32_t count, uint16_t identifier) {
    struct io_uring_buf *slot = &((struct io_uring_buf_ring *)ring)->bufs[tail & mask];
    slot->addr = (uint64_t)(uintptr_t)bytes;
    slot->len = count;
    slot->bid = identifier;
}

static inline void sluice_buffer_publish(void *ring, uint16_t tail) {
    __atomic_store_n(&((struct io_uring_buf_ring *)ring)->tail, tail, __ATOMIC_RELEASE);
}

// SCHED_BATCH, which <sched.h> names only with _GNU_SOURCE, for the calling thread.
static inline int sluice_schedule_batch(void) {
    struct sched_param parameters = {0};
    return sluice_result(syscall(SYS_sched_setscheduler, 0, 3, &parameters));
}

static inline int sluice_is_batch(void) {
    return syscall(SYS_sched_getscheduler, 0) == 3;
}
