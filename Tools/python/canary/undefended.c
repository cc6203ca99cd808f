// Takes defences away from a program that it is preloaded into, to see that the search finds what
// they hide. SLUICE_UNDEFENDED names them, with commas:
//   dumpable     prctl(PR_SET_DUMPABLE, 0)        limit      setrlimit(RLIMIT_CORE, 0)
//   exclusion    madvise(MADV_DONTDUMP)           cleansing  OPENSSL_cleanse by the program
//   backtraces   the start with Swift's crash reports off
//   handlers     their handlers' removal
// and the zeroing, by explicit_bzero or memset, of
//   chunks       bodies and answers that wait     heap       all memory that is no arena's
//   incoming     plaintext as it came             outgoing   plaintext on its way out
// Each that was really asked for and withheld is noted in the file SLUICE_UNDEFENDED_NOTES.
// With SLUICE_TRAP_AT the program traps as soon as it is about to wipe memory that holds this
// text, with a register that points to it, as any fault in code at work on content would.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define REGIONS_MAX 64
// Sources/Product/Broker/ContentStore.swift: sizes of a shard's buffers. Were they others, nothing
// would be withheld of one of them, which the run does not let pass.
#define INCOMING_BYTES (64 * 1024)
#define OUTGOING_BYTES (16 * 1024)

// The arena: what was asked to be excluded from cores. Filled before any thread is started.
static struct { char *base; size_t bytes; } regions[REGIONS_MAX];
static size_t region_count;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

// getenv itself is one of the functions taken over.
static const char *setting(const char *name) {
    static __typeof__(&getenv) next;
    if (next == NULL) next = NEXT(getenv);
    return next(name);
}

static int taken(const char *defence) {
    const char *list = setting("SLUICE_UNDEFENDED");
    size_t length = strlen(defence);
    while (list != NULL && *list != 0) {
        const char *end = strchrnul(list, ',');
        if ((size_t)(end - list) == length && strncmp(list, defence, length) == 0) return 1;
        list = *end ? end + 1 : end;
    }
    return 0;
}

static int withheld(const char *defence) {
    static const char *noted[16];
    static size_t count;
    if (!taken(defence)) return 0;
    for (size_t index = 0; index < count; index++)
        if (noted[index] == defence) return 1;
    const char *path = setting("SLUICE_UNDEFENDED_NOTES");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file >= 0) {
        (void)!write(file, defence, strlen(defence));
        (void)!write(file, "\n", 1);
        close(file);
    }
    if (count < sizeof noted / sizeof *noted) noted[count++] = defence;
    return 1;
}

static const char CHUNKS[] = "chunks";

static const char *defence_of(const char *base) {
    for (size_t index = 0; index < region_count; index++) {
        if (base < regions[index].base || base >= regions[index].base + regions[index].bytes)
            continue;
        if (regions[index].bytes <= OUTGOING_BYTES) return "outgoing";
        return regions[index].bytes <= INCOMING_BYTES ? "incoming" : CHUNKS;
    }
    return "heap";
}

// memset itself is one of the functions taken over.
static void fill(void *base, int value, size_t bytes) {
#if defined(__x86_64__)
    __asm__ volatile("rep stosb" : "+D"(base), "+c"(bytes) : "a"(value) : "memory");
#else
    for (volatile char *byte = base; bytes > 0; bytes--) *byte++ = (char)value;
#endif
}

static void trap_at(const void *content) {
#if defined(__x86_64__)
    __asm__ volatile("ud2" : : "D"(content), "S"(content) : "memory");
#elif defined(__aarch64__)
    register const void *held __asm__("x0") = content;
    __asm__ volatile("udf #0" : : "r"(held) : "memory");
#else
    (void)content;
    __builtin_trap();
#endif
}

void explicit_bzero(void *base, size_t bytes) {
    const char *text = setting("SLUICE_TRAP_AT");
    const void *content = text ? memmem(base, bytes, text, strlen(text)) : NULL;
    if (content != NULL) trap_at(content);
    if (!withheld(defence_of(base))) fill(base, 0, bytes);
}

// Chunks are zeroed as Swift zeroes memory. Nothing else writes zeros there.
void *memset(void *base, int value, size_t bytes) {
    if (value == 0 && bytes > 0 && region_count > 0) {
        const char *defence = defence_of(base);
        if (defence == CHUNKS && withheld(defence)) return base;
    }
    fill(base, value, bytes);
    return base;
}

void OPENSSL_cleanse(void *base, size_t bytes) {
    if (!withheld("cleansing")) fill(base, 0, bytes);
}

int madvise(void *base, size_t bytes, int advice) {
    static __typeof__(&madvise) next;
    if (next == NULL) next = NEXT(madvise);
    if (advice == MADV_DONTDUMP) {
        if (region_count < REGIONS_MAX) {
            regions[region_count].base = base;
            regions[region_count++].bytes = bytes;
        }
        if (withheld("exclusion")) return 0;
    }
    return next(base, bytes, advice);
}

int prctl(int option, ...) {
    static int (*next)(int, unsigned long, unsigned long, unsigned long, unsigned long);
    va_list list;
    va_start(list, option);
    unsigned long a = va_arg(list, unsigned long), b = va_arg(list, unsigned long);
    unsigned long c = va_arg(list, unsigned long), d = va_arg(list, unsigned long);
    va_end(list);
    if (option == PR_SET_DUMPABLE && a == 0 && withheld("dumpable")) return 0;
    if (next == NULL) next = (__typeof__(next))dlsym(RTLD_NEXT, "prctl");
    return next(option, a, b, c, d);
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) {
    static __typeof__(&setrlimit) next;
    if (next == NULL) next = NEXT(setrlimit);
    if (resource == RLIMIT_CORE && limit->rlim_cur == 0 && withheld("limit")) return 0;
    return next(resource, limit);
}

__sighandler_t signal(int number, __sighandler_t handler) {
    static __typeof__(&signal) next;
    if (next == NULL) next = NEXT(signal);
    if (handler == SIG_DFL && withheld("handlers")) return SIG_DFL;
    return next(number, handler);
}

// The program asks whether it was started with crash reports off, Swift's library whether it shall
// write them: the one is told yes, the other finds no setting, which means yes too.
char *getenv(const char *name) {
    if (strcmp(name, "SWIFT_BACKTRACE") == 0 && taken("backtraces")) {
        Dl_info caller = {0};
        int known = dladdr(__builtin_return_address(0), &caller);
        if (known && caller.dli_fname && strstr(caller.dli_fname, "libswift")) return NULL;
        (void)withheld("backtraces");
        return "enable=no";
    }
    return (char *)setting(name);
}
