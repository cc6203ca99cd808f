// Takes one defence away from a program that it is preloaded into, to see that the search finds
// what the defence hides. SLUICE_UNDEFENDED names what is taken: wiping, dumping, cores.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static int taken(const char *defence) {
    const char *list = getenv("SLUICE_UNDEFENDED");
    return list != NULL && strstr(list, defence) != NULL;
}

void explicit_bzero(void *base, size_t bytes) {
    if (taken("wiping")) return;
    memset(base, 0, bytes);
    __asm__ volatile("" : : "r"(base) : "memory");
}

int madvise(void *base, size_t bytes, int advice) {
    static int (*next)(void *, size_t, int);
    if (advice == MADV_DONTDUMP && taken("dumping")) return 0;
    if (next == NULL) next = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "madvise");
    return next(base, bytes, advice);
}

int prctl(int option, ...) {
    static int (*next)(int, unsigned long, unsigned long, unsigned long, unsigned long);
    va_list list;
    va_start(list, option);
    unsigned long a = va_arg(list, unsigned long), b = va_arg(list, unsigned long);
    unsigned long c = va_arg(list, unsigned long), d = va_arg(list, unsigned long);
    va_end(list);
    if (option == PR_SET_DUMPABLE && taken("cores")) return 0;
    if (next == NULL) next = (int (*)(int, unsigned long, unsigned long, unsigned long,
        unsigned long))dlsym(RTLD_NEXT, "prctl");
    return next(option, a, b, c, d);
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) {
    static int (*next)(__rlimit_resource_t, const struct rlimit *);
    if (resource == RLIMIT_CORE && taken("cores")) return 0;
    if (next == NULL)
        next = (int (*)(__rlimit_resource_t, const struct rlimit *))dlsym(RTLD_NEXT, "setrlimit");
    return next(resource, limit);
}
