import Foundation
import TLSEngine
import Testing

@Suite struct SealingTests {
    let owner = Array("account 7".utf8)

    @Test(arguments: [0, 1, 16, 4_096]) func whatIsSealedOpensAgain(count: Int) throws {
        let key = SealingKey.random()
        let text = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let sealed = key.seal(text, associated: owner)
        #expect(sealed.count == count + SealingKey.overheadBytes)
        #expect(try key.open(sealed, associated: owner) == text)
        #expect(key.seal(text, associated: owner) != sealed)
    }

    @Test func everyChangedBitIsRefused() {
        let key = SealingKey.random()
        let sealed = key.seal([1, 2, 3], associated: owner)
        for bit in 0..<sealed.count * 8 {
            var changed = sealed
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(throws: SealingError.forged) { try key.open(changed, associated: owner) }
        }
        for count in 0..<sealed.count {
            #expect(throws: SealingError.forged) {
                try key.open(Array(sealed.prefix(count)), associated: owner)
            }
        }
    }

    @Test func anotherKeyOrAnotherOwnerIsRefused() {
        let key = SealingKey.random()
        let sealed = key.seal([1, 2, 3], associated: owner)
        #expect(throws: SealingError.forged) {
            try SealingKey.random().open(sealed, associated: owner)
        }
        #expect(throws: SealingError.forged) {
            try key.open(sealed, associated: Array("account 8".utf8))
        }
        #expect(throws: SealingError.forged) { try key.open(sealed, associated: []) }
    }

    /// The GCM specification's test case 16, by way of `open`.
    @Test func theCipherIsTheStandards() throws {
        let key = SealingKey(
            hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308").span)
        let sealed = hex(
            "cafebabefacedbaddecaf888"
                + "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
                + "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
                + "76fc6ece0f4e1768cddf8853bb2d551b")
        let opened = try key.open(
            sealed, associated: hex("feedfacedeadbeeffeedfacedeadbeefabaddad2"))
        #expect(
            opened
                == hex(
                    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                        + "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"))
    }

    @Test func aDataKeyIsWrappedForItsOwner() throws {
        let master = MasterKeys(.random())
        let key = SealingKey.random()
        let wrapped = master.wrap(key, owner: owner)
        #expect(wrapped.count == 69)
        let again = try master.unwrap(wrapped, owner: owner)
        #expect(
            try again.open(key.seal([5], associated: []), associated: []) == [5])
        #expect(throws: SealingError.forged) { try master.unwrap(wrapped, owner: []) }
        #expect(throws: SealingError.keyUnknown) {
            try MasterKeys(.random()).unwrap(wrapped, owner: owner)
        }
        #expect(throws: SealingError.forged) { try master.unwrap([], owner: owner) }
        #expect(throws: SealingError.forged) {
            try master.unwrap(Array(wrapped.prefix(9)), owner: owner)
        }
    }

    @Test func rotationWrapsAgainAndTheOldKeyCanGo() throws {
        let (old, new) = (SealingKey.random(), SealingKey.random())
        let key = SealingKey.random()
        let sealed = key.seal([5], associated: [])
        let wrapped = MasterKeys(old).wrap(key, owner: owner)
        let both = MasterKeys(new, earlier: [old])
        let moved = try #require(try both.rewrap(wrapped, owner: owner))
        #expect(try both.rewrap(moved, owner: owner) == nil)
        let opened = try MasterKeys(new).unwrap(moved, owner: owner)
        #expect(try opened.open(sealed, associated: []) == [5])
        #expect(throws: SealingError.keyUnknown) {
            try MasterKeys(old).unwrap(moved, owner: owner)
        }
    }

    // MARK: Where master keys come from

    private func file(_ text: String?, mode: Int = 0o600) throws -> String {
        let path = FileManager.default.temporaryDirectory.path + "/sealing-\(UUID())"
        guard let text else { return path }
        try Data(text.utf8).write(to: URL(fileURLWithPath: path))
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
        return path
    }

    private func problem(_ source: MasterKeySource) -> SealingError? {
        do throws(SealingError) {
            _ = try source.read()
            return nil
        } catch {
            return error
        }
    }

    @Test func aFileOfKeysIsRead() throws {
        let (first, second) = (
            String(repeating: "a1", count: 32), String(repeating: "B2", count: 32)
        )
        let old = MasterKeys(SealingKey(hex(second).span))
        let wrapped = old.wrap(.random(), owner: owner)
        let path = try file("# current\n\(first)\r\n\n\(second)\n")
        defer { try? FileManager.default.removeItem(atPath: path) }
        let keys = try MasterKeySource.file(path).read()
        #expect(try keys.rewrap(wrapped, owner: owner) != nil)
        #expect(
            try keys.rewrap(
                MasterKeys(SealingKey(hex(first).span)).wrap(.random(), owner: owner),
                owner: owner) == nil)
    }

    @Test func everyFaultOfAFileIsNamed() throws {
        let key = String(repeating: "a1", count: 32)
        #expect(problem(.file(try file(nil))) == .keyMissing)
        #expect(problem(.file(try file(""))) == .keyMissing)
        #expect(problem(.file(try file("# nothing\n"))) == .keyMissing)
        #expect(problem(.file(try file(key + "0"))) == .keyMalformed)
        #expect(problem(.file(try file(String(key.dropLast())))) == .keyMalformed)
        #expect(problem(.file(try file("x" + key.dropFirst()))) == .keyMalformed)
        #expect(problem(.file(try file(key, mode: 0o640))) == .keyExposed)
        #expect(problem(.file(try file(key, mode: 0o604))) == .keyExposed)
        #expect(problem(.file(try file(key))) == nil)
    }

    @Test func aMadeFileIsReadAndNeverReplaced() throws {
        let path = try file(nil)
        defer { try? FileManager.default.removeItem(atPath: path) }
        try MasterKeySource.makeFile(path)
        #expect(problem(.file(path)) == nil)
        #expect(throws: SealingError.keyUnreadable(errno: EEXIST)) {
            try MasterKeySource.makeFile(path)
        }
    }

    @Test func theEnvironmentIsReadToo() {
        let name = "SLUICE_TEST_MASTER_KEY"
        #expect(problem(.environment(name)) == .keyMissing)
        setenv(name, "short", 1)
        #expect(problem(.environment(name)) == .keyMalformed)
        setenv(name, String(repeating: "0f", count: 32), 1)
        #expect(problem(.environment(name)) == nil)
        unsetenv(name)
    }

    private func hex(_ text: String) -> [UInt8] {
        let digits = Array(text)
        return stride(from: 0, to: digits.count, by: 2).compactMap {
            UInt8(String(digits[$0...$0 + 1]), radix: 16)
        }
    }
}
