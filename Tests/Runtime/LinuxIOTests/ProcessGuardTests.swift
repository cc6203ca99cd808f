import Glibc
import Testing

import LinuxIO

@Suite(.serialized) struct ProcessGuardTests {
    /// How many of the block's bytes still hold the canary after it was freed. Reads freed memory
    /// on purpose: that is what a thief of the process's memory would do.
    private func leftInFreedBlock() -> Int {
        let byteCount = 16_384
        guard let block = malloc(byteCount) else { return -1 }
        // Keeps the block off the end of the heap, which would be given back whole.
        let neighbour = malloc(64)
        defer { free(neighbour) }
        memset(block, 0xC7, byteCount)
        let bytes = UnsafeRawPointer(block)
        free(block)
        return (64..<byteCount - 64).count {
            bytes.load(fromByteOffset: $0, as: UInt8.self) == 0xC7
        }
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
