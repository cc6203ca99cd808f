/// A secret under which addresses are hashed, wrapped by a master key that the store never sees.
package struct AddressSecret: Equatable, Sendable {
    /// Ascending; never given twice.
    package var generation: UInt64
    package var wrapped: [UInt8]
    /// Wall clock, microseconds since 1970.
    package var madeAtUs: UInt64
}

extension Store {
    /// All secrets that were not destroyed, oldest first.
    package func addressSecrets() throws(StoreError) -> [AddressSecret] {
        try read { (transaction) throws(StoreError) in try transaction.addressSecrets() }
    }

    /// Adds a secret, unless another process has added one after `cutoffUs`: then that one.
    package func addAddressSecret(
        _ wrapped: [UInt8], nowUs: UInt64, unlessMadeAfterUs cutoffUs: UInt64
    ) throws(StoreError) -> AddressSecret {
        try write { (transaction) throws(StoreError) in
            if let newest = try transaction.addressSecrets().last, newest.madeAtUs > cutoffUs {
                return newest
            }
            let rows = try transaction.query(
                """
                INSERT INTO address_secret (wrapped_key, made_at_us) VALUES ($1, $2)
                RETURNING generation
                """, [.bytes(wrapped), .integer(signed(nowUs))])
            guard let row = rows.first else { throw .damaged }
            return AddressSecret(
                generation: try row.unsigned(0), wrapped: wrapped, madeAtUs: nowUs)
        }
    }

    /// Accounts that were noted with this hash.
    package func accounts(
        hash: [UInt8], generation: UInt64
    ) throws(StoreError) -> [UInt64] {
        try read { (transaction) throws(StoreError) in
            try transaction.query(
                "SELECT account FROM address_hash WHERE generation = $1 AND hash = $2",
                [.integer(signed(generation)), .bytes(hash)]
            ).map { (row) throws(StoreError) in try row.unsigned(0) }
        }
    }

    /// Destroys all secrets. Their hashes say nothing from then on; `removeExpired` takes them
    /// away. Gives how many secrets there were.
    @discardableResult
    package func destroyAddressSecrets(
        nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) -> Int {
        try write { (transaction) throws(StoreError) in
            try transaction.audit(actor, .rotateAddresses, nowUs: nowUs)
            return try transaction.execute("DELETE FROM address_secret")
        }
    }

    /// Exchanges every wrapped secret by `rewrap`: after a change of the master key.
    package func rewrapAddressSecrets(
        nowUs: UInt64, by actor: Actor = .machine, _ rewrap: ([UInt8]) throws -> [UInt8]
    ) throws(StoreError) {
        try write { (transaction) throws(StoreError) in
            for secret in try transaction.addressSecrets() {
                let wrapped: [UInt8]
                do {
                    wrapped = try rewrap(secret.wrapped)
                } catch {
                    throw StoreError.invalidValue
                }
                try transaction.execute(
                    "UPDATE address_secret SET wrapped_key = $1 WHERE generation = $2",
                    [.bytes(wrapped), .integer(signed(secret.generation))])
            }
            try transaction.audit(actor, .rewrapKeys, nowUs: nowUs)
        }
    }

    /// Overwrites what removed rows have left in the store's files. False where that is not done at
    /// once: SQLite with a reader in the way, and PostgreSQL, whose pages and log give it up in
    /// their own time. What was sealed is unreadable all the same to whoever has no master key.
    package func overwriteRemains() throws(StoreError) -> Bool {
        try engine.overwriteRemains()
    }
}

extension StoreTransaction {
    fileprivate func addressSecrets() throws(StoreError) -> [AddressSecret] {
        try query(
            "SELECT generation, wrapped_key, made_at_us FROM address_secret ORDER BY generation"
        ).map { (row) throws(StoreError) in
            AddressSecret(
                generation: try row.unsigned(0), wrapped: try row.bytes(1),
                madeAtUs: try row.unsigned(2))
        }
    }
}
