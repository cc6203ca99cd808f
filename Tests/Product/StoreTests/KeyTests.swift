import Foundation
import RecordTestSupport
import SluiceRecordFormat
import SluiceWire
import Store
import Testing

@Suite struct KeyTests {
    @Test(arguments: TestEngine.allCases)
    func aKeyIsShownOnceAndKeptAsDigestOnly(_ engine: TestEngine) throws {
        let test = try TestStore(engine)
        let store = test.store
        let client = try store.issueKey(
            account: "alice", role: .client, nowUs: 5, digest: fakeDigest)
        let supplier = try store.issueKey(
            account: "alice", role: .supplier, nowUs: 6, digest: fakeDigest)
        #expect(client.secret.hasPrefix("slc_"))
        #expect(supplier.secret.hasPrefix("sls_"))
        // 40 random bytes, six bits a character.
        #expect(client.secret.utf8.count == 4 + 54)
        #expect(client.account == supplier.account)
        #expect(client.entry.supplier == 0)
        #expect(supplier.entry.supplier != 0)
        #expect(try store.keys().map(\.prefix) == [client.prefix, supplier.prefix])
        let told = try #require(try store.changes(after: 0, node: 1)).map(\.entry)
        #expect(
            told.map(\.key).suffix(2) == [client, supplier].map { .credential($0.entry.digest) })
        #expect(client.entry.digest == fakeDigest(Array(client.secret.utf8)))
    }

    @Test func noFileHoldsAnIssuedKey() throws {
        let test = try TestStore(.sqlite, durability: .everyTransaction)
        guard case .sqlite(let path) = test.location else { return }
        let key = try test.store.issueKey(
            account: "alice", role: .client, nowUs: 5, digest: fakeDigest)
        _ = try test.store.checkpoint()
        let folder = (path as NSString).deletingLastPathComponent
        for name in try FileManager.default.contentsOfDirectory(atPath: folder) {
            let file = try Data(contentsOf: URL(fileURLWithPath: folder + "/" + name))
            #expect(
                file.range(of: Data(key.prefix.utf8)) != nil || name.hasSuffix("-shm")
                    || name.hasSuffix("-wal"))
            for start in stride(from: 10, to: 50, by: 4) {
                let part = Array(key.secret.utf8)[start..<start + 8]
                #expect(file.range(of: Data(part)) == nil)
            }
        }
    }

    @Test func noTwoKeysAreAlike() throws {
        let store = try TestStore(.sqlite).store
        let secrets = try (0..<50).map { _ in
            try store.issueKey(account: "a", role: .client, nowUs: 1, digest: fakeDigest).secret
        }
        #expect(Set(secrets).count == 50)
    }

    @Test(arguments: TestEngine.allCases)
    func aRevokedKeyIsTold(_ engine: TestEngine) throws {
        let store = try TestStore(engine).store
        let key = try store.issueKey(
            account: "a", role: .both, nowUs: 1, expiresAtMs: 77,
            limits: AccountLimits(concurrentTasks: 3), operations: OperationSet(.chat),
            digest: fakeDigest)
        let before = try #require(try store.changes(after: 0, node: 1)?.last)
        try store.revokeKey(prefix: key.prefix, nowUs: 2)
        let after = try #require(try store.changes(after: before.id, node: 1))
        var revoked = key.entry
        revoked.isRevoked = true
        #expect(after.map(\.entry) == [.credential(revoked)])
        #expect(try store.keys().map(\.isRevoked) == [true])
        #expect(throws: StoreError.unknownKey) {
            try store.revokeKey(prefix: "slc_nobody", nowUs: 2)
        }
    }

    @Test(arguments: TestEngine.allCases)
    func aCertificateIsAKeyUnderTheInverseOfItsDigest(_ engine: TestEngine) throws {
        let store = try TestStore(engine).store
        let sha256 = Digest256(0x0706_0504_0302_01ff, 2, 3, .max)
        let key = try store.addCertificate(
            sha256: sha256, account: "machines", role: .supplier, nowUs: 5, expiresAtMs: 99,
            limits: AccountLimits(concurrentTasks: 3))
        #expect(key.prefix == "crt_ff01020304050607")
        #expect(key.entry.digest == Digest256(~0x0706_0504_0302_01ff, ~2, ~3, 0))
        #expect(key.entry.supplier != 0)
        #expect(key.entry.expiresAtMs == 99)
        #expect(key.entry.concurrentTasksMax == 3)
        let secret = try store.issueKey(
            account: "machines", role: .client, nowUs: 6, digest: fakeDigest)
        let listed = try store.keys()
        #expect(listed.map(\.prefix) == [key.prefix, secret.prefix])
        #expect(listed.map(\.certificate) == [sha256, nil])
        #expect(listed[0].accountLabel == "machines")
        #expect(
            sha256.hexadecimal
                == "ff01020304050607" + "0200000000000000" + "0300000000000000"
                + String(repeating: "f", count: 16))
        let whole = try store.directoryEntries(node: 1).entries
        #expect(whole.contains(.credential(key.entry)))

        #expect(throws: StoreError.keyExists) {
            _ = try store.addCertificate(
                sha256: sha256, account: "others", role: .client, nowUs: 7, expiresAtMs: 0)
        }
        #expect(try store.account(label: "others") == nil, "nothing of it was done")
        try store.revokeKey(prefix: key.prefix, nowUs: 8)
        var revoked = key.entry
        revoked.isRevoked = true
        #expect(try store.changes(after: 0, node: 1)?.last?.entry == .credential(revoked))
        #expect(throws: StoreError.keyExists) {
            _ = try store.addCertificate(
                sha256: sha256, account: "machines", role: .client, nowUs: 9, expiresAtMs: 0)
        }
        #expect(try store.audit(last: 2).map(\.action) == [.issueKey, .revokeKey])
    }

    @Test(arguments: TestEngine.allCases)
    func everyOperatorsActionIsAudited(_ engine: TestEngine) throws {
        let store = try TestStore(engine).store
        let account = try store.makeAccount(
            label: "shop", kinds: .consumer, isPrepaid: true, nowUs: 10)
        #expect(throws: StoreError.accountExists) {
            _ = try store.makeAccount(label: "shop", kinds: .supplier, nowUs: 11)
        }
        try store.changeAccount(account.id, nowUs: 12, by: .account(9)) { $0.isSuspended = true }
        let model = try #require(ModelName("m"))
        try store.setPrice(
            DirectoryPrice(
                model: model, prices: PriceList(input: 1, cached: 2, output: 3, reasoning: 4),
                effectiveFromMs: 5), nowUs: 13)
        try store.setFee(DirectoryFee(basisPoints: 250, effectiveFromMs: 0), nowUs: 14)
        #expect(
            try store.audit(last: 10).map(\.action)
                == [.makeAccount, .changeAccount, .setPrice, .setFee])
        #expect(try store.audit(last: 3).map(\.actor) == [.account(9), .machine, .machine])
        let told = try #require(try store.changes(after: 0, node: 1)).map(\.entry)
        #expect(told.count == 4)
        #expect(
            told[1]
                == .account(
                    DirectoryAccount(account: account.id, isSuspended: true, isPrepaid: true)))
        #expect(try store.prices().map(\.model) == [model])
        #expect(try store.fees().map(\.basisPoints) == [250])
        let whole = try store.directoryEntries(node: 1)
        #expect(Set(whole.entries.map(\.key)) == Set(told.map(\.key)))
        #expect(whole.lastChange == (try store.changes(after: 0, node: 1)?.last?.id))
    }

    @Test(arguments: TestEngine.allCases)
    func aLabelIsPrintableASCII(_ engine: TestEngine) throws {
        let store = try TestStore(engine).store
        for label in ["", "a\nb", "ä", String(repeating: "x", count: 129)] {
            #expect(throws: StoreError.invalidValue) {
                _ = try store.makeAccount(label: label, kinds: .consumer, nowUs: 1)
            }
        }
        #expect(try store.accounts().isEmpty)
    }

    @Test(arguments: TestEngine.allCases)
    func anErasureLeavesNoKey(_ engine: TestEngine) throws {
        let store = try TestStore(engine).store
        let account = try store.makeAccount(label: "p", kinds: .consumer, nowUs: 1)
        let person = Person(wrappedKey: [1, 2, 3], fields: [1: [9, 9], 7: [8]])
        try store.setPerson(account.id, person, nowUs: 2)
        #expect(try store.person(account.id) == person)
        try store.rewrapKeys { id, key in key + [UInt8(id)] }
        #expect(try store.person(account.id)?.wrappedKey == [1, 2, 3, UInt8(account.id)])
        try store.erasePerson(account.id, nowUs: 3)
        #expect(try store.person(account.id) == nil)
        for (generation, hash) in [(1, 5), (1, 6), (2, 5)] as [(UInt64, UInt8)] {
            try store.noteAddress(
                hash: [hash], generation: generation, account: account.id, nowUs: 4)
        }
        #expect(try store.removeAddresses(beforeGeneration: 2) == 2)
        #expect(try store.addressCount() == 1)
    }

    @Test(arguments: TestEngine.allCases)
    func settingsAreKept(_ engine: TestEngine) throws {
        let store = try TestStore(engine).store
        #expect(try store.setting("fee") == nil)
        try store.setSetting("fee", "1")
        try store.setSetting("fee", "2")
        #expect(try store.setting("fee") == "2")
    }
}
