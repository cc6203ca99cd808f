package import SluiceWire

/// One entry of the directory: 128 bytes. A later entry of the same key replaces the earlier.
///
///     0 u8 layout version  1 u8 kind  2 u8 the kind's own  3 u8 flags  4 u32 CRC-32C
///     8 u64 change number  16 body
package enum DirectoryEntry: Equatable, Sendable {
    case credential(DirectoryCredential)
    case account(DirectoryAccount)
    case price(DirectoryPrice)
    case fee(DirectoryFee)
    case lease(DirectoryLease)

    /// The kinds by their number in files.
    package enum Kind: UInt8, CaseIterable, Sendable {
        case credential = 1
        case account = 2
        case price = 3
        case fee = 4
        case lease = 5
    }

    /// What an entry is about: of each key the newest entry holds.
    package enum Key: Hashable, Sendable {
        case credential(Digest256)
        case account(UInt64)
        case price(ModelName, effectiveFromMs: UInt64)
        case fee(effectiveFromMs: UInt64)
        case lease(account: UInt64, instance: UInt64)
    }

    package static let byteCount = RecordWords.byteCount
    private static let layoutVersion: UInt8 = 1

    /// Nil unless checksum, version, kind and every field hold. A reader passes over an entry
    /// that is intact and yet nil: a later version wrote it.
    package init?(_ words: RecordWords) {
        guard words.isIntact, words[0].byte(0) == Self.layoutVersion,
            let kind = Kind(rawValue: words[0].byte(1))
        else { return nil }
        let entry: DirectoryEntry? =
            switch kind {
            case .credential: DirectoryCredential(words).map { .credential($0) }
            case .account: .account(DirectoryAccount(words))
            case .price: DirectoryPrice(words).map { .price($0) }
            case .fee: DirectoryFee(words).map { .fee($0) }
            case .lease: DirectoryLease(words).map { .lease($0) }
            }
        guard let entry else { return nil }
        self = entry
        change = words[1]
    }

    /// The entry as it stands in a file, with its checksum.
    package var words: RecordWords {
        let (kind, body): (Kind, RecordWords) =
            switch self {
            case .credential(let credential): (.credential, credential.body)
            case .account(let account): (.account, account.body)
            case .price(let price): (.price, price.body)
            case .fee(let fee): (.fee, fee.body)
            case .lease(let lease): (.lease, lease.body)
            }
        var words = body
        words[0] |= .byte(Self.layoutVersion, at: 0) | .byte(kind.rawValue, at: 1)
        words[1] = change
        return words.sealed
    }

    /// Position among all changes ever made to this directory, from 1; set by its writer.
    package var change: UInt64 {
        get {
            switch self {
            case .credential(let credential): credential.change
            case .account(let account): account.change
            case .price(let price): price.change
            case .fee(let fee): fee.change
            case .lease(let lease): lease.change
            }
        }
        set {
            switch self {
            case .credential(var credential):
                credential.change = newValue
                self = .credential(credential)
            case .account(var account):
                account.change = newValue
                self = .account(account)
            case .price(var price):
                price.change = newValue
                self = .price(price)
            case .fee(var fee):
                fee.change = newValue
                self = .fee(fee)
            case .lease(var lease):
                lease.change = newValue
                self = .lease(lease)
            }
        }
    }

    package var key: Key {
        switch self {
        case .credential(let credential): .credential(credential.digest)
        case .account(let account): .account(account.account)
        case .price(let price): .price(price.model, effectiveFromMs: price.effectiveFromMs)
        case .fee(let fee): .fee(effectiveFromMs: fee.effectiveFromMs)
        case .lease(let lease): .lease(account: lease.account, instance: lease.instance)
        }
    }

    /// False for a closed lease, which the next snapshot leaves out: its instance is gone, or it
    /// has long expired. Revoked credentials and removed prices stay, so that no reader can miss
    /// them however long it slept.
    package var staysInSnapshots: Bool {
        if case .lease(let lease) = self { !lease.isClosed } else { true }
    }
}

/// First 128 bytes of `snapshot-G`, `changes-G` and of a journal segment.
///
///     0 u8 layout version  1 u8 kind  2 u16 zero  4 u32 CRC-32C  8 u64 magic
///     16 u64 number (generation or segment)  24 u64 count of entries (snapshot)  32 u64 last change
package struct BlockFileHeader: Equatable, Sendable {
    /// What the file is.
    package enum Kind: UInt8, Sendable {
        case directorySnapshot = 0x41
        case directoryChanges = 0x42
        case journalSegment = 0x43
        case sealedSegment = 0x44
    }

    /// "SLCFILE1".
    package static let magic: UInt64 = 0x3145_4C49_4643_4C53

    package var kind: Kind
    package var number: UInt64
    package var entryCount: UInt64
    package var lastChange: UInt64

    package init(kind: Kind, number: UInt64, entryCount: UInt64 = 0, lastChange: UInt64 = 0) {
        self.kind = kind
        self.number = number
        self.entryCount = entryCount
        self.lastChange = lastChange
    }

    /// Nil unless checksum, version, magic and kind hold.
    package init?(_ words: RecordWords) {
        guard words.isIntact, words[0].byte(0) == 1, words[1] == Self.magic,
            let kind = Kind(rawValue: words[0].byte(1))
        else { return nil }
        self.init(
            kind: kind, number: words[2], entryCount: words[3], lastChange: words[4])
    }

    package var words: RecordWords {
        var words = RecordWords()
        words[0] = .byte(1, at: 0) | .byte(kind.rawValue, at: 1)
        words[1] = Self.magic
        words[2] = number
        words[3] = entryCount
        words[4] = lastChange
        return words.sealed
    }
}
