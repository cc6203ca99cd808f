package import SluiceWire

/// What a credential may be used for.
package enum DirectoryRole: UInt8, CaseIterable, Sendable {
    case client = 1
    case supplier = 2
    case both = 3

    /// Whether a peer of this role may use the credential.
    package func allows(_ role: PeerRole) -> Bool {
        switch (self, role) {
        case (.both, _), (.client, .client), (.supplier, .supplier): true
        case (.client, .supplier), (.supplier, .client): false
        }
    }
}

/// One credential in the directory: 128 bytes. A later entry of the same digest replaces the
/// earlier; a revoked one stays for good, so that no reader can miss the revocation.
///
///     0 u8 layout version  1 u8 kind (1)  2 u8 role  3 u8 flags (bit 0 = revoked)  4 u32 CRC-32C
///     8 u64 change number  16 32 bytes digest  48 u64 account  56 u64 expiry ms
///     64 u32 concurrent tasks  68 u32 requests per minute  72 u64 supplier identity  80 zero
package struct DirectoryEntry: Equatable, Sendable {
    package static let byteCount = RecordWords.byteCount
    private static let layoutVersion: UInt8 = 1
    private static let credentialKind: UInt8 = 1

    /// SHA-256 of the secret.
    package var digest: Digest256
    package var account: UInt64
    package var role: DirectoryRole
    package var isRevoked: Bool
    /// Wall clock, milliseconds since 1970; 0 = never.
    package var expiresAtMs: UInt64
    /// 0 = the broker's default.
    package var concurrentTasksMax: UInt32
    /// 0 = the broker's default.
    package var requestsPerMinuteMax: UInt32
    /// 0 for a client's key.
    package var supplier: UInt64
    /// Position among all changes ever made to this directory, from 1; set by its writer.
    package var change: UInt64 = 0

    package init(
        digest: Digest256, account: UInt64, role: DirectoryRole, isRevoked: Bool = false,
        expiresAtMs: UInt64 = 0, concurrentTasksMax: UInt32 = 0, requestsPerMinuteMax: UInt32 = 0,
        supplier: UInt64 = 0
    ) {
        self.digest = digest
        self.account = account
        self.role = role
        self.isRevoked = isRevoked
        self.expiresAtMs = expiresAtMs
        self.concurrentTasksMax = concurrentTasksMax
        self.requestsPerMinuteMax = requestsPerMinuteMax
        self.supplier = supplier
    }

    /// Whether the credential may be used at this wall-clock time.
    package func isValid(nowMs: UInt64) -> Bool {
        !isRevoked && (expiresAtMs == 0 || nowMs < expiresAtMs)
    }

    /// Nil unless checksum, version and every field hold.
    package init?(_ words: RecordWords) {
        guard words.isIntact, words[0].byte(0) == Self.layoutVersion,
            words[0].byte(1) == Self.credentialKind,
            let role = DirectoryRole(rawValue: words[0].byte(2))
        else { return nil }
        self.init(
            digest: Digest256(words[2], words[3], words[4], words[5]), account: words[6],
            role: role, isRevoked: words[0].byte(3) & 1 == 1, expiresAtMs: words[7],
            concurrentTasksMax: words[8].low32, requestsPerMinuteMax: words[8].high32,
            supplier: words[9])
        change = words[1]
    }

    package var words: RecordWords {
        var words = RecordWords()
        words[0] =
            .byte(Self.layoutVersion, at: 0) | .byte(Self.credentialKind, at: 1)
            | .byte(role.rawValue, at: 2) | .byte(isRevoked ? 1 : 0, at: 3)
        words[1] = change
        words[2] = digest.words.0
        words[3] = digest.words.1
        words[4] = digest.words.2
        words[5] = digest.words.3
        words[6] = account
        words[7] = expiresAtMs
        words[8] = UInt64(low: concurrentTasksMax, high: requestsPerMinuteMax)
        words[9] = supplier
        return words.sealed
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
