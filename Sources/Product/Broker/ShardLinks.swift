import ContentArena
import LinuxIO
import LockFree
import SecureTransport
import SluiceBrokerCore
import Synchronization

/// What one shard hands to another, in order.
enum ShardParcel: Sendable {
    /// An `open` names the task's body, which stays where it is.
    case message(RelayMessage, body: ChunkQueue)
    /// Whole TOKENS frames, their numbers those of the receiver's client streams. The receiver
    /// releases the queue.
    case frames(ChunkQueue)
    /// A connection that the receiver serves from now on.
    case adopt(AcceptedStream)
}

/// What one thread shows the others: whether it sleeps, and how much it has to do.
final class ThreadGauge: Sendable {
    let sleep = SleepFlag()
    let doorbell: Doorbell
    /// Client and supplier streams that are not idle.
    let openStreams = Atomic<Int>(0)
    /// Client streams that are not idle. Stored before `stage`.
    let openTasks = Atomic<Int>(0)
    /// Connections that it has, or that were closed since it began.
    let connectionsClosed = Atomic<Int>(0)
    /// How far it has followed `ShardLinks.stage`.
    let stage = Atomic<DrainStage>(.serving)

    init(_ doorbell: Doorbell) {
        self.doorbell = doorbell
    }

    /// Wakes the thread if it sleeps. Call after what it should see was published.
    func wake() {
        if sleep.takeSleeper() { doorbell.ring() }
    }
}

/// How far the broker has gone towards its end.
enum DrainStage: UInt8, AtomicRepresentable, Comparable, Sendable {
    case serving
    /// GO-AWAY is out; tasks run on.
    case draining
    /// No task is left; connections close.
    case closing

    static func < (left: DrainStage, right: DrainStage) -> Bool { left.rawValue < right.rawValue }
}

/// Every way between the threads of one broker. Made before they start; outlives them.
final class ShardLinks: Sendable {
    /// Places of each queue. What does not fit waits with its producer.
    private static let queueCapacity = 128

    /// By shard: what it asks the dispatcher, and what that answers.
    let requests: [SPSCQueue<DispatchRequest>]
    let messages: [SPSCQueue<ShardMessage>]
    /// By producer, then consumer.
    let parcels: [[SPSCQueue<ShardParcel>]]
    /// By shard.
    let gauges: [ThreadGauge]
    /// The thread of the dispatcher: shard 0's, or its own.
    let dispatcherGauge: ThreadGauge
    /// Set by shard 0; the others follow.
    let stage = Atomic<DrainStage>(.serving)

    /// `dispatcher`: the doorbell of the dispatcher's own thread; nil where it is shard 0's.
    init(doorbells: [Doorbell], dispatcher: Doorbell?) {
        let count = doorbells.count
        requests = (0..<count).map { _ in SPSCQueue(capacity: 2 * Self.queueCapacity) }
        messages = (0..<count).map { _ in SPSCQueue(capacity: 2 * Self.queueCapacity) }
        parcels = (0..<count).map { _ in
            (0..<count).map { _ in SPSCQueue(capacity: Self.queueCapacity) }
        }
        let gauges = doorbells.map { ThreadGauge($0) }
        self.gauges = gauges
        dispatcherGauge = dispatcher.map { ThreadGauge($0) } ?? gauges[0]
    }

    var shardCount: Int { gauges.count }

    /// Sets the stage and wakes everyone.
    func advance(to stage: DrainStage) {
        self.stage.store(stage, ordering: .sequentiallyConsistent)
        for gauge in gauges { gauge.doorbell.ring() }
        dispatcherGauge.doorbell.ring()
    }

    /// Every shard has followed to `draining` and has no task left.
    var isIdle: Bool {
        gauges.allSatisfy {
            $0.stage.load(ordering: .acquiring) >= .draining
                && $0.openTasks.load(ordering: .relaxed) == 0
        }
    }
}

/// The producer's end of a queue to another thread. What finds no room waits here, in order, so
/// that no thread ever waits for another. Owned by the producer's thread.
struct Outlet<Element: Sendable> {
    private let queue: SPSCQueue<Element>
    private let gauge: ThreadGauge
    private var waiting: [Element] = []
    private var waitingFirst = 0
    /// Something was pushed and not shown.
    private var hasNews = false

    init(_ queue: SPSCQueue<Element>, to gauge: ThreadGauge) {
        self.queue = queue
        self.gauge = gauge
    }

    /// Elements that found no room.
    var waitingCount: Int { waiting.count - waitingFirst }

    mutating func send(_ element: Element) {
        if waitingCount == 0, queue.push(element) {
            hasNews = true
        } else {
            waiting.append(element)
        }
    }

    /// Shows what was sent, and wakes the consumer if there is something new.
    mutating func flush() {
        guard hasNews || !waiting.isEmpty else { return }
        hasNews = false
        while waitingFirst < waiting.count, queue.push(waiting[waitingFirst]) {
            waitingFirst += 1
        }
        if waitingFirst == waiting.count {
            waiting.removeAll(keepingCapacity: waiting.count <= 1_024)
            waitingFirst = 0
        }
        if queue.publish() { gauge.wake() }
    }
}
