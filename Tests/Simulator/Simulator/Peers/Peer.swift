package import SluiceWire

/// One side of a simulated connection that is not the broker. Owned by the simulation, stepped by
/// it, on one thread.
package protocol Peer: AnyObject {
    /// Who it is in reports and in the books of dispatches; unique.
    var identity: UInt64 { get }
    /// True for a peer that keeps every rule, whatever the network does to it.
    var isHonest: Bool { get }
    /// No more bytes go out; the connection is to be closed.
    var isOver: Bool { get }
    /// When `wake` is wanted next, in microseconds; `.max` = not at all.
    var dueUs: UInt64 { get }

    /// A new connection is up.
    func connected(nowUs: UInt64)
    /// Bytes came, cut anywhere.
    func receive(_ bytes: [UInt8], nowUs: UInt64)
    /// Bytes to send now; empty = none.
    func output(nowUs: UInt64) -> [UInt8]
    /// Time passed.
    func wake(nowUs: UInt64)
    /// The connection is gone.
    func disconnected(nowUs: UInt64)
    /// Faults are over: behave.
    func heal(nowUs: UInt64)
}

/// What every peer of a run shares: the options, the truth, and its own random numbers.
package struct PeerSetting {
    package let options: SimulationOptions
    package let oracle: Oracle
    package var random: RandomStream
    package let secret: [UInt8]

    package init(
        options: SimulationOptions, oracle: Oracle, random: RandomStream, secret: [UInt8]
    ) {
        self.options = options
        self.oracle = oracle
        self.random = random
        self.secret = secret
    }
}

/// The name of model `number`.
package func simulatedModel(_ number: Int) -> ModelName {
    guard let name = ModelName("model-\(number)") else { preconditionFailure("a valid name") }
    return name
}
