/// What a mock client needs to know to speak to a target.
struct ClientSettings: Sendable {
    var key: String
    /// Of this connection among all of the run, from 0.
    var number: Int
    var streams: Int
    /// The slot of its first stream.
    var firstSlot: Int
    var promptBytes: Int
}

/// What a mock supplier needs to know.
struct SupplierSettings: Sendable {
    var token: String
    var number: Int
}

/// One mock client's side of one connection: bytes in, bytes out, and what they mean for tasks.
/// Conformers are pure.
protocol ClientDialect: Sendable {
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
protocol SupplierDialect: Sendable {
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
struct WaitingTask: Sendable {
    var stream: Int
    var order: TaskOrder
    var intendedNs: UInt64
}
