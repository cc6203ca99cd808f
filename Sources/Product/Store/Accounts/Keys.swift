package import SluiceRecordFormat
package import SluiceWire

/// A key that was just made. The secret exists only here: it is never stored.
package struct IssuedKey: Sendable {
    /// What the holder shows in HELLO; 320 random bits.
    package let secret: String
    /// What names the key to people: its first characters, too few to help a guesser.
    package let prefix: String
    package let account: UInt64
    /// What the brokers are told of it.
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
    /// Wall clock, milliseconds since 1970; 0 = never.
    package var expiresAtMs: UInt64
    package var limits: AccountLimits
    /// What it may be used for; empty = everything.
    package var operations: OperationSet
    /// Identity of the supplier that connects with it; 0 for a client's key.
    package var supplier: UInt64
    /// SHA-256 of the client certificate that it is; nil for a secret.
    package var certificate: Digest256?
}

/// Whose a new key is, and what it may be used for.
struct KeyTerms {
    /// Label of the account, which is made if need be.
    var account: String
    var role: DirectoryRole
    /// Wall clock, milliseconds since 1970; 0 = never.
    var expiresAtMs: UInt64
    var limits: AccountLimits
    var operations: OperationSet
}

extension Store {
    /// Characters of a secret that are kept: `slc_` or `sls_` and six more (36 of 320 bits).
    private static let prefixLength = 10
    private static let secretBytes = 40

    /// Makes a key for the account of this label, which is made too if need be (not prepaid), and
    /// stores its digest. `digest` is SHA-256. The key is valid once a `DirectorySync` has told
    /// the directory.
    package func issueKey(
        account label: String, role: DirectoryRole, nowUs: UInt64, expiresAtMs: UInt64 = 0,
        limits: AccountLimits = AccountLimits(), operations: OperationSet = [],
        by actor: Actor = .machine, digest: ([UInt8]) -> Digest256
    ) throws(StoreError) -> IssuedKey {
        let secret = Self.makeSecret(role)
        let hash = digest(Array(secret.utf8))
        let prefix = String(secret.prefix(Self.prefixLength))
        let terms = KeyTerms(
            account: label, role: role, expiresAtMs: expiresAtMs, limits: limits,
            operations: operations)
        return try write { (transaction) throws(StoreError) in
            let entry = try transaction.insertKey(
                terms, digest: hash, prefix: prefix, nowUs: nowUs, by: actor)
            return IssuedKey(
                secret: secret, prefix: prefix, account: entry.account, entry: entry)
        }
    }

    /// Revokes the key with this prefix, for good. The brokers follow with the next
    /// `DirectorySync`.
    package func revokeKey(
        prefix: String, nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) {
        try write { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                "SELECT id FROM access_key WHERE prefix = $1", [.text(prefix)])
            guard !rows.isEmpty else { throw .unknownKey }
            // Ten characters can be those of two keys in 2^36; then both are meant.
            for row in rows {
                let id = try row.integer(0)
                try transaction.execute(
                    """
                    UPDATE access_key SET revoked_at_us = $1
                    WHERE id = $2 AND revoked_at_us IS NULL
                    """, [.integer(signed(nowUs)), .integer(id)])
                guard let entry = try transaction.credentials(id: id).first else {
                    throw .damaged
                }
                try transaction.addChange(.credential(entry))
                try transaction.audit(actor, .revokeKey, subject: unsigned(id), nowUs: nowUs)
            }
        }
    }

    /// All keys, oldest first.
    package func keys() throws(StoreError) -> [KeyRow] {
        try read { (transaction) throws(StoreError) in
            var keys: [KeyRow] = []
            let rows = try transaction.query(
                """
                SELECT k.prefix, k.account, a.label, k.role, k.created_at_us, k.revoked_at_us,
                    k.expires_at_ms, k.concurrent_tasks, k.requests_per_minute,
                    k.tokens_per_minute, k.operations, k.supplier, k.digest
                FROM access_key k JOIN account a ON a.id = k.account ORDER BY k.id
                """)
            for row in rows {
                guard let role = DirectoryRole(number: try row.integer(3)) else {
                    throw .damaged
                }
                let prefix = try row.text(0)
                keys.append(
                    KeyRow(
                        prefix: prefix, account: try row.unsigned(1),
                        accountLabel: try row.text(2), role: role,
                        createdAtUs: try row.unsigned(4),
                        isRevoked: try row.optionalInteger(5) != nil,
                        expiresAtMs: try row.unsigned(6),
                        limits: AccountLimits(
                            concurrentTasks: try row.unsigned32(7),
                            requestsPerMinute: try row.unsigned32(8),
                            tokensPerMinute: try row.unsigned(9)),
                        operations: OperationSet(
                            rawValue: UInt8(truncatingIfNeeded: try row.integer(10))),
                        supplier: try row.unsigned(11),
                        certificate: try Self.certificate(prefix, digest: try row.bytes(12))))
            }
            return keys
        }
    }

    /// A setting of the operator; nil if it was never set.
    package func setting(_ name: String) throws(StoreError) -> String? {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                "SELECT value FROM setting WHERE name = $1", [.text(name)])
            guard let row = rows.first else { return nil }
            return try row.text(0)
        }
    }

    /// Sets or replaces a setting of the operator.
    package func setSetting(_ name: String, _ value: String) throws(StoreError) {
        _ = try write { (transaction) throws(StoreError) in
            try transaction.execute(
                """
                INSERT INTO setting (name, value) VALUES ($1, $2)
                ON CONFLICT (name) DO UPDATE SET value = excluded.value
                """, [.text(name), .text(value)])
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

extension DirectoryRole {
    init?(number: Int64) {
        guard let raw = UInt8(exactly: number) else { return nil }
        self.init(rawValue: raw)
    }

    /// What an account becomes that is made for a key of this role.
    fileprivate var accountKinds: AccountKinds {
        switch self {
        case .client: .consumer
        case .supplier: .supplier
        case .both: [.consumer, .supplier]
        }
    }
}

extension StoreTransaction {
    /// Writes a key, with its account if that is new, and what the brokers must learn of it.
    func insertKey(
        _ terms: KeyTerms, digest: Digest256, prefix: String, nowUs: UInt64, by actor: Actor
    ) throws(StoreError) -> DirectoryCredential {
        let known = try account(label: terms.account)
        let owner =
            if let known {
                known
            } else {
                try insertAccount(
                    label: terms.account, kinds: terms.role.accountKinds, isPrepaid: false,
                    limits: AccountLimits(), nowUs: nowUs, by: actor)
            }
        let limits = terms.limits
        let rows = try query(
            """
            INSERT INTO access_key (account, role, digest, prefix, supplier, operations,
                concurrent_tasks, requests_per_minute, tokens_per_minute, created_at_us,
                expires_at_ms)
            VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, $9, $10) RETURNING id
            """,
            [
                .integer(signed(owner.id)), .integer(Int64(terms.role.rawValue)),
                .bytes(digest.bytes), .text(prefix), .integer(Int64(terms.operations.rawValue)),
                .integer(Int64(limits.concurrentTasks)),
                .integer(Int64(limits.requestsPerMinute)),
                .integer(signed(limits.tokensPerMinute)), .integer(signed(nowUs)),
                .integer(signed(terms.expiresAtMs)),
            ])
        guard let row = rows.first else { throw .damaged }
        let id = try row.unsigned(0)
        // A supplier's identity is its key's number: breakers follow the machine, not the account.
        let supplier = terms.role == .client ? 0 : id
        try execute(
            "UPDATE access_key SET supplier = $1 WHERE id = $2",
            [.integer(signed(supplier)), .integer(signed(id))])
        let entry = DirectoryCredential(
            digest: digest, account: owner.id, role: terms.role, expiresAtMs: terms.expiresAtMs,
            concurrentTasksMax: limits.concurrentTasks,
            requestsPerMinuteMax: limits.requestsPerMinute, supplier: supplier,
            needsAccount: true, tokensPerMinuteMax: limits.tokensPerMinute,
            operations: terms.operations)
        try addChange(.credential(entry))
        try audit(actor, .issueKey, subject: id, nowUs: nowUs)
        return entry
    }

    /// The entry of one key, or of all.
    func credentials(id: Int64? = nil) throws(StoreError) -> [DirectoryCredential] {
        let filter = id == nil ? "" : " WHERE id = $1"
        let rows = try query(
            """
            SELECT digest, account, role, revoked_at_us, expires_at_ms, concurrent_tasks,
                requests_per_minute, supplier, tokens_per_minute, operations
            FROM access_key\(filter) ORDER BY id
            """, id.map { [.integer($0)] } ?? [])
        var entries: [DirectoryCredential] = []
        for row in rows {
            let bytes = try row.bytes(0)
            guard let digest = Digest256(bytes.span),
                let role = DirectoryRole(number: try row.integer(2))
            else { throw .damaged }
            entries.append(
                DirectoryCredential(
                    digest: digest, account: try row.unsigned(1), role: role,
                    isRevoked: try row.optionalInteger(3) != nil,
                    expiresAtMs: try row.unsigned(4), concurrentTasksMax: try row.unsigned32(5),
                    requestsPerMinuteMax: try row.unsigned32(6), supplier: try row.unsigned(7),
                    needsAccount: true, tokensPerMinuteMax: try row.unsigned(8),
                    operations: OperationSet(
                        rawValue: UInt8(truncatingIfNeeded: try row.integer(9)))))
        }
        return entries
    }
}
