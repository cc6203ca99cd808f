import Glibc
import Testing

import LinuxIO

@Suite(.serialized) struct ProcessGuardTests {
    /// How many of a block's bytes still hold the canary after it was freed. Written and read
    /// through the kernel, as a thief of the process's memory would: the compiler sees neither.
    private func leftInFreedBlock() -> Int {
        let byteCount = 16_384
        guard let block = malloc(byteCount) else { return -1 }
        // Keeps the block off the end of the heap, which would be given back whole.
        let neighbour = malloc(64)
        defer { free(neighbour) }
        let address = off_t(Int(bitPattern: block))
        let memory = open("/proc/self/mem", O_RDWR)
        defer { close(memory) }
        let canary = [UInt8](repeating: 0xC7, count: byteCount)
        guard pwrite(memory, canary, byteCount, address) == byteCount else { return -1 }
        // Allocated before, so that it is not put into the block.
        var left = [UInt8](repeating: 0, count: byteCount)
        free(block)
        guard pread(memory, &left, byteCount, address) == byteCount else { return -1 }
        return left.dropFirst(64).dropLast(64).count { $0 == 0xC7 }
    }

    /// What a thread keeps aside for itself is not overwritten, so it must keep nothing.
    @Test func whatTheAllocatorIsToldKeepsWhatItWasToldBefore() {
        let none = "glibc.malloc.tcache_count=0"
        #expect(ProcessGuard.tunables(after: nil) == none)
        #expect(ProcessGuard.tunables(after: "") == none)
        #expect(
            ProcessGuard.tunables(after: "glibc.malloc.arena_max=2") == "glibc.malloc.arena_max=2:"
                + none)
        #expect(ProcessGuard.tunables(after: none) == none)
        #expect(
            ProcessGuard.tunables(after: none + ":glibc.malloc.tcache_count=7") == none
                + ":glibc.malloc.tcache_count=7:" + none)
    }

    /// Control: without it the canary is still there. Both in one test, since it cannot be undone.
    @Test func freedMemoryIsOverwritten() async {
        await #expect(processExitsWith: .success) {
            let guarded = ProcessGuardTests()
            guard guarded.leftInFreedBlock() > 10_000 else { exit(2) }
            guard ProcessGuard.wipeFreedMemory() else { exit(3) }
            guard guarded.leftInFreedBlock() == 0 else { exit(4) }
            exit(0)
        }
    }
}
