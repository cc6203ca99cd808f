package import Store
package import TLSEngine

/// Personal data in clear for whoever holds the master keys, and sealed for everybody else.
///
/// Every account has a data key of its own, new with each `set`; the store keeps it wrapped by the
/// master key. Erasing needs no master key: without the wrapped key nothing can be opened.
package struct PersonVault: Sendable {
    private let store: Store
    private let keys: MasterKeys

    package init(_ store: Store, _ keys: MasterKeys) {
        self.store = store
        self.keys = keys
    }

    /// Sets the whole personal data of an account, in place of what was there. Audited.
    package func set(
        _ account: UInt64, _ fields: [PersonalField: String], nowUs: UInt64,
        by actor: Actor = .machine
    ) throws(PrivacyError) {
        let key = SealingKey.random()
        var person = Person(
            wrappedKey: keys.wrap(key, owner: Self.owner(account)), fields: [:])
        for (field, value) in fields {
            var bytes = Array(value.utf8)
            guard (1...PersonalField.bytesMax).contains(bytes.count) else {
                throw .invalidValue
            }
            person.fields[field.rawValue] = key.seal(
                bytes, associated: Self.owner(account, field))
            SealingKey.wipe(&bytes)
        }
        try stored { () throws(StoreError) in
            try store.setPerson(account, person, nowUs: nowUs, by: actor)
        }
    }

    /// The personal data of an account, nil if there is none or it was erased. Audited before
    /// anything is opened. Fields of a later version are left out.
    package func show(
        _ account: UInt64, nowUs: UInt64, by actor: Actor = .machine
    ) throws(PrivacyError) -> [PersonalField: String]? {
        let person = try stored { () throws(StoreError) in
            try store.readPerson(account, nowUs: nowUs, by: actor)
        }
        guard let person else { return nil }
        let key = try sealed { () throws(SealingError) in
            try keys.unwrap(person.wrappedKey, owner: Self.owner(account))
        }
        var fields: [PersonalField: String] = [:]
        for (number, bytes) in person.fields {
            guard let field = PersonalField(rawValue: number) else { continue }
            var plain = try sealed { () throws(SealingError) in
                try key.open(bytes, associated: Self.owner(account, field))
            }
            fields[field] = String(decoding: plain, as: UTF8.self)
            SealingKey.wipe(&plain)
        }
        return fields
    }

    /// Wraps every key again that an earlier master key wraps; then that one can be destroyed, and
    /// with it what backups hold. Audited.
    package func rewrap(nowUs: UInt64, by actor: Actor = .machine) throws(PrivacyError) {
        // What is wrong with a key is more than the store can say.
        var refused: SealingError?
        func again(_ wrapped: [UInt8], _ owner: [UInt8]) throws(SealingError) -> [UInt8] {
            do throws(SealingError) {
                guard let rewrapped = try keys.rewrap(wrapped, owner: owner) else {
                    return wrapped
                }
                return rewrapped
            } catch {
                refused = error
                throw error
            }
        }
        do throws(StoreError) {
            try store.rewrapKeys { try again($1, Self.owner($0)) }
            try store.rewrapAddressSecrets(nowUs: nowUs, by: actor) {
                try again($0, AddressBook.owner)
            }
        } catch {
            if let refused { throw .sealing(refused) }
            throw .store(error)
        }
    }

    private static func owner(_ account: UInt64) -> [UInt8] {
        sealOwner("sluice person", account)
    }

    private static func owner(_ account: UInt64, _ field: PersonalField) -> [UInt8] {
        sealOwner("sluice person field", account, UInt64(field.rawValue))
    }
}
