import SluiceLedgerCore
package import Store
package import TLSEngine

/// From which network addresses accounts are used, known by keyed hashes only: HMAC-SHA256 under a
/// secret that lives 90 days. A rotation destroys the secret, and then nobody can say which
/// address a hash was made of, although there are few enough addresses to try them all.
package struct AddressBook: Sendable {
    private let store: Store
    private let keys: MasterKeys
    static let owner = sealOwner("sluice address secret")

    package init(_ store: Store, _ keys: MasterKeys) {
        self.store = store
        self.keys = keys
    }

    /// Notes that an account was used from an address: 4 bytes of IPv4 or 16 of IPv6. An IPv4
    /// address inside an IPv6 one counts as IPv4.
    package func note(
        _ address: [UInt8], account: UInt64, nowUs: UInt64
    ) throws(PrivacyError) {
        guard let address = Self.canonical(address) else { throw .invalidValue }
        let secret = try currentSecret(nowUs: nowUs)
        let key = try sealed { () throws(SealingError) in
            try keys.unwrap(secret.wrapped, owner: Self.owner)
        }
        let hash = key.authenticationCode(of: address)
        try stored { () throws(StoreError) in
            try store.noteAddress(
                hash: hash, generation: secret.generation, account: account, nowUs: nowUs)
        }
    }

    /// Accounts that were used from an address under the secrets that are left, ascending.
    package func accounts(from address: [UInt8]) throws(PrivacyError) -> [UInt64] {
        guard let address = Self.canonical(address) else { throw .invalidValue }
        var found: Set<UInt64> = []
        for secret in try stored({ () throws(StoreError) in try store.addressSecrets() }) {
            let key = try sealed { () throws(SealingError) in
                try keys.unwrap(secret.wrapped, owner: Self.owner)
            }
            let hash = key.authenticationCode(of: address)
            found.formUnion(
                try stored { () throws(StoreError) in
                    try store.accounts(hash: hash, generation: secret.generation)
                })
        }
        return found.sorted()
    }

    /// The newest secret, or a new one if that is too old: read anew each time, so that no process
    /// goes on with one that was destroyed.
    private func currentSecret(nowUs: UInt64) throws(PrivacyError) -> AddressSecret {
        let cutoffUs = Retention.cutoffUs(days: Retention.addressHashDays, nowUs: nowUs)
        let newest = try stored { () throws(StoreError) in try store.addressSecrets().last }
        if let newest, newest.madeAtUs > cutoffUs { return newest }
        let wrapped = keys.wrap(SealingKey.random(), owner: Self.owner)
        return try stored { () throws(StoreError) in
            try store.addAddressSecret(wrapped, nowUs: nowUs, unlessMadeAfterUs: cutoffUs)
        }
    }

    private static func canonical(_ address: [UInt8]) -> [UInt8]? {
        switch address.count {
        case 4: return address
        case 16:
            let isMapped =
                address[..<10].allSatisfy { $0 == 0 } && address[10] == 0xFF
                && address[11] == 0xFF
            return isMapped ? Array(address[12...]) : address
        default: return nil
        }
    }
}
