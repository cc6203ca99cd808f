import GRDB
package import SluiceRecordFormat
package import SluiceWire

/// A key that was just made. The secret exists only here: it is never stored.
package struct IssuedKey: Sendable {
    /// What the holder shows in HELLO; 320 random bits.
    package let secret: String
    /// What names the key to people: its first characters, too few to help a guesser.
    package let prefix: String
    package let account: UInt64
    /// What the directory was told.
    package let entry: DirectoryCredential
}

/// A key as it is listed.
package struct KeyRow: Equatable, Sendable {
    package var prefix: String
    package var account: UInt64
    package var accountLabel: String
    package var role: DirectoryRole
    /// Wall clock, microseconds since 1970.
    package var createdAtUs: UInt64
    package var isRevoked: Bool
}

extension Store {
    /// Characters of a secret that are kept: `slc_` or `sls_` and six more (36 of 320 bits).
    private static let prefixLength = 10
    private static let secretBytes = 40

    /// Makes a key for the account of this label, which is made too if need be, and stores its
    /// digest. `digest` is SHA-256; `publish` writes the entry to the directory. Both happen or
    /// the key is not valid: if the directory does not take it, `notPublished`.
    package func issueKey(
        account label: String, role: DirectoryRole, nowUs: UInt64, expiresAtMs: UInt64 = 0,
        concurrentTasksMax: UInt32 = 0, requestsPerMinuteMax: UInt32 = 0,
        digest: ([UInt8]) -> Digest256, publish: (DirectoryCredential) throws -> Void
    ) throws(StoreError) -> IssuedKey {
        let secret = Self.makeSecret(role)
        let hash = digest(Array(secret.utf8))
        let prefix = String(secret.prefix(Self.prefixLength))
        return try write { database in
            try database.execute(
                sql: "INSERT OR IGNORE INTO account (label, created_at_us) VALUES (?, ?)",
                arguments: [label, signed(nowUs)])
            let account = try Int64.fetchOne(
                database, sql: "SELECT id FROM account WHERE label = ?", arguments: [label])
            guard let account else { throw StoreError.damaged }
            try database.execute(
                sql: """
                    INSERT INTO access_key (
                        account, role, digest, prefix, supplier, created_at_us, expires_at_ms)
                    VALUES (?, ?, ?, ?, 0, ?, ?)
                    """,
                arguments: [
                    account, role.rawValue, hash.blob, prefix, signed(nowUs),
                    signed(expiresAtMs),
                ])
            // A supplier's identity is its key's number: breakers follow the machine, not the
            // account.
            let supplier = role == .client ? 0 : database.lastInsertedRowID
            try database.execute(
                sql: "UPDATE access_key SET supplier = ? WHERE id = ?",
                arguments: [supplier, database.lastInsertedRowID])
            let entry = DirectoryCredential(
                digest: hash, account: unsigned(account), role: role, expiresAtMs: expiresAtMs,
                concurrentTasksMax: concurrentTasksMax,
                requestsPerMinuteMax: requestsPerMinuteMax, supplier: unsigned(supplier))
            do {
                try publish(entry)
            } catch {
                throw StoreError.notPublished
            }
            return IssuedKey(
                secret: secret, prefix: prefix, account: unsigned(account), entry: entry)
        }
    }

    /// Revokes the key with this prefix, in the store and through `publish` in the directory.
    package func revokeKey(
        prefix: String, nowUs: UInt64, publish: (DirectoryCredential) throws -> Void
    ) throws(StoreError) {
        try write { database in
            let row = try Row.fetchOne(
                database,
                sql: """
                    SELECT id, digest, account, role, expires_at_ms, supplier
                    FROM access_key WHERE prefix = ?
                    """, arguments: [prefix])
            guard let row, let hash = Digest256(blob: row[1]),
                let role = DirectoryRole(rawValue: row[3])
            else { throw StoreError.unknownKey }
            try database.execute(
                sql: "UPDATE access_key SET revoked_at_us = ? WHERE id = ?",
                arguments: [signed(nowUs), row[0] as Int64])
            let entry = DirectoryCredential(
                digest: hash, account: unsigned(row[2]), role: role, isRevoked: true,
                expiresAtMs: unsigned(row[4]), supplier: unsigned(row[5]))
            do {
                try publish(entry)
            } catch {
                throw StoreError.notPublished
            }
        }
    }

    /// All keys, oldest first.
    package func keys() throws(StoreError) -> [KeyRow] {
        try read { database in
            try Row.fetchAll(
                database,
                sql: """
                    SELECT k.prefix, k.account, a.label, k.role, k.created_at_us, k.revoked_at_us
                    FROM access_key k JOIN account a ON a.id = k.account ORDER BY k.id
                    """
            ).map { row in
                guard let role = DirectoryRole(rawValue: row[3]) else { throw StoreError.damaged }
                let revokedAtUs: Int64? = row[5]
                return KeyRow(
                    prefix: row[0], account: unsigned(row[1]), accountLabel: row[2], role: role,
                    createdAtUs: unsigned(row[4]), isRevoked: revokedAtUs != nil)
            }
        }
    }

    /// A setting of the operator; nil if it was never set.
    package func setting(_ name: String) throws(StoreError) -> String? {
        try read { database in
            try String.fetchOne(
                database, sql: "SELECT value FROM setting WHERE name = ?", arguments: [name])
        }
    }

    /// Sets or replaces a setting of the operator.
    package func setSetting(_ name: String, _ value: String) throws(StoreError) {
        try write { database in
            try database.execute(
                sql: "INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)",
                arguments: [name, value])
        }
    }

    private static func makeSecret(_ role: DirectoryRole) -> String {
        let alphabet = Array(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        // The system's generator: the kernel's random numbers.
        var random = SystemRandomNumberGenerator()
        var secret = role == .client ? "slc_" : "sls_"
        var (bits, bitCount) = (UInt32(0), 0)
        for _ in 0..<secretBytes {
            bits = bits << 8 | UInt32(UInt8.random(in: .min ... .max, using: &random))
            bitCount += 8
            while bitCount >= 6 {
                bitCount -= 6
                secret.append(alphabet[Int(bits >> UInt32(bitCount)) & 63])
            }
        }
        if bitCount > 0 { secret.append(alphabet[Int(bits << UInt32(6 - bitCount)) & 63]) }
        return secret
    }
}
