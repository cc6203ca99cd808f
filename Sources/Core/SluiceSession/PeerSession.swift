/// What a transport needs of a session, whichever role it plays. Conformers are pure machines; one
/// owner calls them under its own lock.
package protocol PeerSession: Sendable {
    associatedtype Event: Sendable

    /// The connection is over; the rest of the output may still be sent.
    var isOver: Bool { get }
    /// `takeOutput` would return bytes, or might.
    var hasOutput: Bool { get }

    /// Queues HELLO.
    mutating func start(nowMs: UInt64)
    /// Bytes came, split anywhere.
    mutating func receive(_ bytes: [UInt8], nowMs: UInt64)
    /// Time passed; called at least every half second.
    mutating func tick(nowMs: UInt64)
    /// The transport has no more bytes, either way.
    mutating func transportClosed()
    /// Ends the session from our side.
    mutating func close()
    /// What happened since the last call, in order.
    mutating func takeEvents() -> [Event]
    /// Bytes to send now; empty when there is nothing to send.
    mutating func takeOutput(targetBytes: Int, nowMs: UInt64) -> [UInt8]
}
