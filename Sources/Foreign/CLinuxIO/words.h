// Atomic access to 64-bit words of memory that several processes map (Protocol/Files.md). Swift's
// own atomics own their storage and cannot stand in a mapped file.
#pragma once
#include <stdint.h>

static inline uint64_t sluice_word_load_acquire(const void *word) {
    return __atomic_load_n((const uint64_t *)word, __ATOMIC_ACQUIRE);
}

static inline uint64_t sluice_word_load(const void *word) {
    return __atomic_load_n((const uint64_t *)word, __ATOMIC_RELAXED);
}

static inline void sluice_word_store_release(void *word, uint64_t value) {
    __atomic_store_n((uint64_t *)word, value, __ATOMIC_RELEASE);
}

static inline void sluice_word_store(void *word, uint64_t value) {
    __atomic_store_n((uint64_t *)word, value, __ATOMIC_RELAXED);
}

/// Keeps the compiler from moving stores across this point. That is all a process needs whose
/// reader looks only after it was killed: what it executed before its death is in memory.
static inline void sluice_word_order(void) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }
