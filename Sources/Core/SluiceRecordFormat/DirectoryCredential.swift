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

/// One credential in the directory (kind 1), by its digest. A revoked one stays for good.
///
///     2 u8 role  3 u8 flags (bit 0 = revoked, bit 1 = needs account)  16 32 bytes digest
///     48 u64 account  56 u64 expiry ms  64 u32 concurrent tasks  68 u32 requests per minute
///     72 u64 supplier identity  80 u64 tokens per minute  88 u8 operations
package struct DirectoryCredential: Equatable, Sendable {
    /// SHA-256 of the secret; of a client certificate its `certificateDigest`.
    package var digest: Digest256
    package var account: UInt64
    package var role: DirectoryRole
    package var isRevoked: Bool
    /// It is refused until the account's own entry is known and not suspended.
    package var needsAccount: Bool
    /// Wall clock, milliseconds since 1970; 0 = never.
    package var expiresAtMs: UInt64
    /// 0 = the broker's default.
    package var concurrentTasksMax: UInt32
    /// 0 = the broker's default.
    package var requestsPerMinuteMax: UInt32
    /// 0 for a client's key.
    package var supplier: UInt64
    /// 0 = no limit of the key's own.
    package var tokensPerMinuteMax: UInt64
    /// What it may ask of a model; empty = everything.
    package var operations: OperationSet
    /// Position among all changes ever made to this directory, from 1; set by its writer.
    package var change: UInt64 = 0

    package init(
        digest: Digest256, account: UInt64, role: DirectoryRole, isRevoked: Bool = false,
        expiresAtMs: UInt64 = 0, concurrentTasksMax: UInt32 = 0, requestsPerMinuteMax: UInt32 = 0,
        supplier: UInt64 = 0, needsAccount: Bool = false, tokensPerMinuteMax: UInt64 = 0,
        operations: OperationSet = []
    ) {
        self.digest = digest
        self.account = account
        self.role = role
        self.isRevoked = isRevoked
        self.expiresAtMs = expiresAtMs
        self.concurrentTasksMax = concurrentTasksMax
        self.requestsPerMinuteMax = requestsPerMinuteMax
        self.supplier = supplier
        self.needsAccount = needsAccount
        self.tokensPerMinuteMax = tokensPerMinuteMax
        self.operations = operations
    }

    /// What stands for a client certificate in place of a secret's digest: its SHA-256 with every
    /// bit inverted, and the reverse.
    ///
    /// A certificate is no secret and often short enough for HELLO: by its SHA-256 alone, whoever
    /// has a copy could send it as a key. A secret with the inverted digest is one that nobody can
    /// find, also for a broker that does not know certificates yet (`Decisions/0079`).
    package static func certificateDigest(_ sha256: Digest256) -> Digest256 {
        let words = sha256.words
        return Digest256(~words.0, ~words.1, ~words.2, ~words.3)
    }

    /// Whether the credential may be used at this wall-clock time.
    package func isValid(nowMs: UInt64) -> Bool {
        !isRevoked && (expiresAtMs == 0 || nowMs < expiresAtMs)
    }

    /// Whether the credential may be used for this operation.
    package func allows(_ operation: TaskOperation) -> Bool {
        operations.isEmpty || operations.contains(OperationSet(operation))
    }

    /// Nil for a role that has no name here.
    init?(_ words: RecordWords) {
        guard let role = DirectoryRole(rawValue: words[0].byte(2)) else { return nil }
        let flags = words[0].byte(3)
        self.init(
            digest: Digest256(words[2], words[3], words[4], words[5]), account: words[6],
            role: role, isRevoked: flags & 1 != 0, expiresAtMs: words[7],
            concurrentTasksMax: words[8].low32, requestsPerMinuteMax: words[8].high32,
            supplier: words[9], needsAccount: flags & 2 != 0, tokensPerMinuteMax: words[10],
            operations: OperationSet(rawValue: words[11].byte(0)))
    }

    var body: RecordWords {
        var words = RecordWords()
        words[0] =
            .byte(role.rawValue, at: 2)
            | .byte((isRevoked ? 1 : 0) | (needsAccount ? 2 : 0), at: 3)
        words[2] = digest.words.0
        words[3] = digest.words.1
        words[4] = digest.words.2
        words[5] = digest.words.3
        words[6] = account
        words[7] = expiresAtMs
        words[8] = UInt64(low: concurrentTasksMax, high: requestsPerMinuteMax)
        words[9] = supplier
        words[10] = tokensPerMinuteMax
        words[11] = .byte(operations.rawValue, at: 0)
        return words
    }
}
