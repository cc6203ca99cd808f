import Foundation
import SluiceRecordFormat
import SluiceWire
import Store

/// The client key and supplier token that `sluice dev` hands out, kept in `dev.json`.
package struct DevelopmentKeys: Codable, Sendable {
    package var clientKey: String
    package var supplierToken: String

    /// The account that the development client pays from.
    package static let clientAccount = "client"
    /// The account that the development worker earns for.
    package static let supplierAccount = "supplier"

    /// Takes the keys of an earlier run if they are still valid, and makes what is missing.
    package static func openOrMake(_ home: DevelopmentHome) throws(DevelopmentError) -> Self {
        let book = try KeyBook(home)
        try DevelopmentMarket.openOrMake(book)
        let kept = try read(home)
        let keys = DevelopmentKeys(
            clientKey: try validOrNew(kept?.clientKey, .client, clientAccount, book),
            supplierToken: try validOrNew(kept?.supplierToken, .supplier, supplierAccount, book))
        try keys.write(home)
        return keys
    }

    private static func read(_ home: DevelopmentHome) throws(DevelopmentError) -> Self? {
        guard let text = try PrivateFile.read(home.secretsPath) else { return nil }
        guard let keys = try? JSONDecoder().decode(Self.self, from: Data(text.utf8)) else {
            throw .damaged(home.secretsPath)
        }
        return keys
    }

    private static func validOrNew(
        _ secret: String?, _ role: DirectoryRole, _ account: String, _ book: KeyBook
    ) throws(DevelopmentError) -> String {
        if let secret, try book.isValid(secret) { return secret }
        return try book.issue(role, account: account).secret
    }

    /// The secrets together, and each alone for `--key-file` and `--token-file`.
    private func write(_ home: DevelopmentHome) throws(DevelopmentError) {
        var line = JSONLine()
        line.add("clientKey", clientKey)
        line.add("supplierToken", supplierToken)
        try PrivateFile.write("\(line)\n", to: home.secretsPath)
        try PrivateFile.write(clientKey + "\n", to: home.clientKeyPath)
        try PrivateFile.write(supplierToken + "\n", to: home.supplierTokenPath)
    }
}
