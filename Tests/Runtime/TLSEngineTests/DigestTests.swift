import COpenSSL
import Glibc
import TLSEngine
import Testing

@Suite struct DigestTests {
    @Test func sha256IsTheStandardsOfABC() {
        let words = sha256(Array("abc".utf8).span)
        // FIPS 180-4: ba7816bf 8f01cfea 414140de 5dae2223 b00361a3 96177a9c b410ff61 f20015ad
        #expect(words.0 == 0xEACF_018F_BF16_78BA)
        #expect(words.1 == 0x2322_AE5D_DE40_4141)
        #expect(words.2 == 0x9C7A_1796_A361_03B0)
        #expect(words.3 == 0xAD15_00F2_61FF_10B4)
    }

    @Test func sha256OfNothing() {
        let none: [UInt8] = []
        #expect(sha256(none.span).0 == 0x141C_FC98_42C4_B0E3)
    }

    /// RFC 4231, case 2.
    @Test func hmacIsTheStandards() {
        let words = hmacSHA256(
            key: Array("Jefe".utf8).span, Array("what do ya want for nothing?".utf8).span)
        #expect(words.0 == 0x4E75_60BF_46C1_DC5B)
        #expect(words.3 == 0x4338_EC64_B958_EC9D)
    }

    @Test func randomBytesDiffer() {
        #expect(randomBytes(32) != randomBytes(32))
    }

}

@Suite struct WipingHeapTests {
    private let mark: UInt8 = 0xA5
    private let byteCount = 700

    /// How many bytes of a block are marked: not those at its beginning, which an allocator uses
    /// for itself once the block is free.
    private func marks(_ block: UnsafeMutableRawPointer) -> Int {
        (64..<byteCount).count { block.load(fromByteOffset: $0, as: UInt8.self) == mark }
    }

    private func filled(_ block: UnsafeMutableRawPointer?) throws -> UnsafeMutableRawPointer {
        let block = try #require(block)
        memset(block, Int32(mark), byteCount)
        return block
    }

    @Test func whatOpenSSLFreesIsWiped() throws {
        TLSLibrary.prepare()
        #expect(TLSLibrary.heapIsWiped)
        // The look itself: a heap that does not wipe leaves the bytes where they were.
        let plain = try filled(malloc(byteCount))
        free(plain)
        #expect(marks(plain) == byteCount - 64)

        let released = try filled(CRYPTO_malloc(byteCount, #file, #line))
        CRYPTO_free(released, #file, #line)
        #expect(marks(released) == 0)
        let outgrown = try filled(CRYPTO_malloc(byteCount, #file, #line))
        let larger = try #require(CRYPTO_realloc(outgrown, byteCount * 9, #file, #line))
        #expect(marks(larger) == byteCount - 64)
        #expect(marks(outgrown) == 0)
        CRYPTO_free(larger, #file, #line)
    }
}

@Suite struct KeyUpdateBudgetTests {
    @Test func thirtyTwoInARowAreAllowed() {
        var limits = TLSLimits()
        limits.keyUpdatesPerSecond = 1_000
        var budget = KeyUpdateBudget(limits: limits)
        for index in 0..<32 {
            let allowed = budget.received(nowMs: UInt64(index) * 1_000)
            #expect(allowed)
        }
        budget.applicationData()
        for index in 32..<64 {
            let allowed = budget.received(nowMs: UInt64(index) * 1_000)
            #expect(allowed)
        }
        let allowed = budget.received(nowMs: 64_000)
        #expect(!allowed)
    }

    @Test func tenASecondAreAllowedForEverAndElevenAreNot() {
        var budget = KeyUpdateBudget(limits: TLSLimits())
        for index in 0..<1_000 {
            budget.applicationData()
            let allowed = budget.received(nowMs: UInt64(index) * 100)
            #expect(allowed)
        }
        var refused = false
        var faster = KeyUpdateBudget(limits: TLSLimits())
        for index in 0..<1_000 {
            faster.applicationData()
            if !faster.received(nowMs: UInt64(index) * 90) { refused = true }
        }
        #expect(refused)
    }
}
