/// Personal data of an account: sealed bytes only. Whoever calls seals and opens them, under a
/// data key of the account's own; the store keeps that key wrapped by a master key it never sees.
/// Without the wrapped key nothing can be opened, so an erasure removes that first of all.
package struct Person: Equatable, Sendable {
    package var wrappedKey: [UInt8]
    /// Sealed fields by the caller's own numbers, 1…255.
    package var fields: [UInt8: [UInt8]]

    package init(wrappedKey: [UInt8], fields: [UInt8: [UInt8]]) {
        self.wrappedKey = wrappedKey
        self.fields = fields
    }
}

extension Store {
    /// The personal data of an account; nil if there is none or it was erased.
    package func person(_ account: UInt64) throws(StoreError) -> Person? {
        try read { (transaction) throws(StoreError) in try transaction.person(account) }
    }

    /// The same for somebody who is going to open it: that they asked is written down first.
    package func readPerson(
        _ account: UInt64, nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) -> Person? {
        try write { (transaction) throws(StoreError) in
            guard try transaction.account(account) != nil else { throw .unknownAccount }
            try transaction.audit(actor, .readPerson, subject: account, nowUs: nowUs)
            return try transaction.person(account)
        }
    }

    /// Sets the whole personal data of an account, in place of what was there.
    package func setPerson(
        _ account: UInt64, _ person: Person, nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) {
        try write { (transaction) throws(StoreError) in
            guard try transaction.account(account) != nil else { throw .unknownAccount }
            try transaction.removePerson(account)
            try transaction.execute(
                "DELETE FROM anonymised WHERE account = $1", [.integer(signed(account))])
            try transaction.execute(
                "INSERT INTO person (account, wrapped_key) VALUES ($1, $2)",
                [.integer(signed(account)), .bytes(person.wrappedKey)])
            for (field, sealed) in person.fields {
                try transaction.execute(
                    "INSERT INTO person_field (account, field, sealed) VALUES ($1, $2, $3)",
                    [.integer(signed(account)), .integer(Int64(field)), .bytes(sealed)])
            }
            try transaction.audit(actor, .changePerson, subject: account, nowUs: nowUs)
        }
    }

    /// Removes the key and the fields: nobody can read them again, not from a backup either as
    /// long as the key was in none. From then on the account is anonymous; its wallet events are
    /// kept for 365 days more. A second erasure leaves the time of the first.
    package func erasePerson(
        _ account: UInt64, nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) {
        try write { (transaction) throws(StoreError) in
            guard try transaction.account(account) != nil else { throw .unknownAccount }
            try transaction.removePerson(account)
            try transaction.execute(
                """
                INSERT INTO anonymised (account, at_us) VALUES ($1, $2)
                ON CONFLICT (account) DO NOTHING
                """, [.integer(signed(account)), .integer(signed(nowUs))])
            try transaction.audit(actor, .erasePerson, subject: account, nowUs: nowUs)
        }
    }

    /// Exchanges every wrapped key by `rewrap`, in one transaction: after a change of the master
    /// key.
    package func rewrapKeys(
        _ rewrap: (_ account: UInt64, _ wrappedKey: [UInt8]) throws -> [UInt8]
    ) throws(StoreError) {
        try write { (transaction) throws(StoreError) in
            for row in try transaction.query("SELECT account, wrapped_key FROM person") {
                let account = try row.unsigned(0)
                let wrapped: [UInt8]
                do {
                    wrapped = try rewrap(account, try row.bytes(1))
                } catch {
                    throw StoreError.invalidValue
                }
                try transaction.execute(
                    "UPDATE person SET wrapped_key = $1 WHERE account = $2",
                    [.bytes(wrapped), .integer(signed(account))])
            }
        }
    }

    /// Notes that an account was used from an address, known only by its keyed hash. `generation`
    /// is the number of the secret that made it.
    package func noteAddress(
        hash: [UInt8], generation: UInt64, account: UInt64, nowUs: UInt64
    ) throws(StoreError) {
        _ = try write { (transaction) throws(StoreError) in
            try transaction.execute(
                """
                INSERT INTO address_hash (generation, hash, account, seen_at_us)
                VALUES ($1, $2, $3, $4)
                ON CONFLICT (generation, hash, account)
                DO UPDATE SET seen_at_us = excluded.seen_at_us
                """,
                [
                    .integer(signed(generation)), .bytes(hash), .integer(signed(account)),
                    .integer(signed(nowUs)),
                ])
        }
    }

    /// Removes the hashes of all secrets before `generation`; gives how many they were.
    package func removeAddresses(beforeGeneration generation: UInt64) throws(StoreError) -> Int {
        try write { (transaction) throws(StoreError) in
            try transaction.execute(
                "DELETE FROM address_hash WHERE generation < $1",
                [.integer(signed(generation))])
        }
    }

    /// Hashes that are kept, of all generations.
    package func addressCount() throws(StoreError) -> Int {
        try read { (transaction) throws(StoreError) in
            guard let row = try transaction.query("SELECT count(*) FROM address_hash").first else {
                throw .damaged
            }
            return Int(try row.integer(0))
        }
    }
}

extension StoreTransaction {
    fileprivate func person(_ account: UInt64) throws(StoreError) -> Person? {
        let keys = try query(
            "SELECT wrapped_key FROM person WHERE account = $1", [.integer(signed(account))])
        guard let key = keys.first else { return nil }
        var person = Person(wrappedKey: try key.bytes(0), fields: [:])
        let rows = try query(
            "SELECT field, sealed FROM person_field WHERE account = $1",
            [.integer(signed(account))])
        for row in rows {
            guard let field = UInt8(exactly: try row.integer(0)) else { throw .damaged }
            person.fields[field] = try row.bytes(1)
        }
        return person
    }

    fileprivate func removePerson(_ account: UInt64) throws(StoreError) {
        for table in ["person_field", "person"] {
            try execute("DELETE FROM \(table) WHERE account = $1", [.integer(signed(account))])
        }
    }
}
