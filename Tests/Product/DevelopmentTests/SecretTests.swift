import Development
import Foundation
import SluiceRecordFormat
import Store
import Testing

struct SecretTests {
    @Test("secrets and private keys are readable by their owner alone")
    func modes() throws {
        let temporary = try TemporaryHome()
        let home = temporary.home
        try home.certificates.make(names: [], replace: false)
        _ = try DevelopmentKeys.openOrMake(home)
        let secret = [
            home.secretsPath, home.clientKeyPath, home.supplierTokenPath,
            home.certificates.authorityKey, home.certificates.serverKey,
        ]
        for path in secret { #expect(try temporary.mode(path) == 0o600, "\(path)") }
        #expect(try temporary.mode(home.path) == 0o700)
    }

    @Test("a second run has the keys of the first, unless they were revoked")
    func keysAreKept() throws {
        let temporary = try TemporaryHome()
        let first = try DevelopmentKeys.openOrMake(temporary.home)
        let second = try DevelopmentKeys.openOrMake(temporary.home)
        #expect(first.clientKey == second.clientKey)
        #expect(first.supplierToken == second.supplierToken)
        #expect(first.clientKey != first.supplierToken)
        try KeyBook(temporary.home).revoke(prefix: String(first.clientKey.prefix(10)))
        let third = try DevelopmentKeys.openOrMake(temporary.home)
        #expect(third.clientKey != first.clientKey)
        #expect(third.supplierToken == first.supplierToken)
    }

    @Test("a damaged dev.json is named, not overwritten")
    func damagedSecrets() throws {
        let temporary = try TemporaryHome()
        try PrivateFile.write("{", to: temporary.home.secretsPath)
        #expect(throws: DevelopmentError.damaged(temporary.home.secretsPath)) {
            try DevelopmentKeys.openOrMake(temporary.home)
        }
        #expect(try PrivateFile.read(temporary.home.secretsPath) == "{")
    }

    @Test("an issued key is valid until it is revoked, and no file holds it")
    func issueAndRevoke() throws {
        let temporary = try TemporaryHome()
        let book = try KeyBook(temporary.home)
        let issued = try book.issue(.client, account: "someone")
        #expect(try book.isValid(issued.secret))
        #expect(try book.keys().map(\.prefix) == [issued.prefix])
        for name in try FileManager.default.subpathsOfDirectory(atPath: temporary.home.path) {
            let bytes = FileManager.default.contents(atPath: temporary.home.path + "/" + name)
            #expect(bytes?.range(of: Data(issued.secret.utf8)) == nil, "\(name)")
        }
        try book.revoke(prefix: issued.prefix)
        #expect(try !book.isValid(issued.secret))
        #expect(throws: DevelopmentError.self) { try book.revoke(prefix: "slc_nobody") }
    }

    @Test("the CA outlives its server certificates")
    func authorityIsKept() throws {
        let temporary = try TemporaryHome()
        let files = temporary.home.certificates
        try files.make(names: [], replace: false)
        let authority = try PrivateFile.read(files.authority)
        let server = try PrivateFile.read(files.server)
        try files.make(names: [], replace: false)
        #expect(try PrivateFile.read(files.server) == server)
        try files.make(names: ["broker.example"], replace: true)
        #expect(try PrivateFile.read(files.authority) == authority)
        #expect(try PrivateFile.read(files.server) != server)
    }
}
