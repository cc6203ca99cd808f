/// What a mock client needs to know to speak to a target.
package struct ClientSettings: Sendable {
    package var key: String
    /// Of this connection among all of the run, from 0.
    package var number: Int
    package var streams: Int
    /// The slot of its first stream.
    package var firstSlot: Int
    package var promptBytes: Int

    package init(key: String, number: Int, streams: Int, firstSlot: Int, promptBytes: Int) {
        self.key = key
        self.number = number
        self.streams = streams
        self.firstSlot = firstSlot
        self.promptBytes = promptBytes
    }
}

/// What a mock supplier needs to know.
package struct SupplierSettings: Sendable {
    package var token: String
    package var number: Int

    package init(token: String, number: Int) {
        self.token = token
        self.number = number
    }
}

/// One mock client's side of one connection: bytes in, bytes out, and what they mean for tasks.
/// Conformers are pure.
package protocol ClientDialect: Sendable {
    init(_ settings: ClientSettings)

    var output: OutputQueue { get set }
    /// Tasks may be submitted.
    var isReady: Bool { get }

    /// TLS stands: says who it is.
    mutating func open()
    /// Opens a task on stream 0..<streams, which is free: now, or when the target lets it.
    mutating func submit(
        _ stream: Int, order: TaskOrder, intendedNs: UInt64, tasks: inout ClientTasks)
    /// Forgets what waits to be submitted; how many.
    mutating func dropWaiting() -> Int
    /// Takes what has arrived; how many bytes were used. The rest comes again with more.
    mutating func receive(_ bytes: Span<UInt8>, nowNs: UInt64, tasks: inout ClientTasks) -> Int
}

/// One mock supplier's side of one connection. Conformers are pure.
package protocol SupplierDialect: Sendable {
    init(_ settings: SupplierSettings)

    var output: OutputQueue { get set }
    var isReady: Bool { get }

    mutating func open()
    mutating func receive(
        _ bytes: Span<UInt8>, connection: Int, nowNs: UInt64, tasks: inout SupplierTasks
    ) -> Int
    /// Whether the peer takes one more token of the task.
    func canSend(_ task: SupplierTasks.Task) -> Bool
    mutating func sendToken(_ task: SupplierTasks.Task, intendedNs: UInt64)
    /// Ends the task, all tokens of which were sent.
    mutating func sendEnd(_ task: SupplierTasks.Task)
}

/// Work that waits on a client connection until the target lets it out.
package struct WaitingTask: Sendable {
    package var stream: Int
    package var order: TaskOrder
    package var intendedNs: UInt64
}
