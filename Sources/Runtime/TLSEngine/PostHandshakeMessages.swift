/// What is wrong with what a peer sent after the handshake, by the alert that answers it (RFC 8446,
/// 6.2).
enum RecordFault: UInt8, Error {
    case unexpectedMessage = 10
    case badRecordMAC = 20
    case recordOverflow = 22
    case illegalParameter = 47
    case decodeError = 50
    case internalError = 80
}

/// Handshake messages that come after the handshake, byte by byte: they may lie in one record
/// together or be spread over several (RFC 8446, 4.6 and 5.1). Pure.
///
/// There are two that this protocol knows: KeyUpdate, and the tickets that other servers send to
/// our clients, which use none.
struct PostHandshakeMessages {
    enum Message: Equatable {
        /// The peer's next record is under its next keys; `isRequest`: it wants ours to change too.
        case keyUpdate(isRequest: Bool)
        case ticket
    }

    private static let ticketKind: UInt8 = 4
    private static let keyUpdateKind: UInt8 = 24
    private static let headerBytes = 4
    /// Two fields of 65,535 bytes and what is around them: the longest ticket there is (RFC 8446,
    /// 4.6.1).
    private static let ticketBytesMax = 131_338

    private let takesTickets: Bool
    private var header: UInt32 = 0
    private var headerCount = 0
    private var bodyBytesLeft = 0

    /// Only clients are sent tickets.
    init(takesTickets: Bool) {
        self.takesTickets = takesTickets
    }

    /// Whether a message has begun and not ended: no other content may come then.
    var isWithinMessage: Bool { headerCount > 0 }

    /// Takes a byte; answers the message that it ends. Throws for what may not come.
    mutating func take(_ byte: UInt8) throws(RecordFault) -> Message? {
        guard headerCount == Self.headerBytes else {
            header = header << 8 | UInt32(byte)
            headerCount += 1
            if headerCount == Self.headerBytes { try begin() }
            return nil
        }
        bodyBytesLeft -= 1
        guard bodyBytesLeft == 0 else { return nil }
        headerCount = 0
        guard kind == Self.keyUpdateKind else { return .ticket }
        guard byte <= 1 else { throw .illegalParameter }
        return .keyUpdate(isRequest: byte == 1)
    }

    private var kind: UInt8 { UInt8(truncatingIfNeeded: header >> 24) }

    private mutating func begin() throws(RecordFault) {
        bodyBytesLeft = Int(header & 0xFF_FFFF)
        switch kind {
        case Self.keyUpdateKind:
            guard bodyBytesLeft == 1 else { throw .decodeError }
        case Self.ticketKind where takesTickets:
            guard (1...Self.ticketBytesMax).contains(bodyBytesLeft) else { throw .decodeError }
        default:
            throw .unexpectedMessage
        }
    }
}
