import CEvents
import Glibc
import SluiceWire

/// What is driven through the process under test.
struct Load {
    static let model = "bench"

    let connections: Int
    /// Open tasks on each client connection.
    let streams: Int
    let tokensPerTask: Int
    let tokenBytes: Int
    let bodyBytes: Int
    let suppliers: Int
    /// Of each stream; 0 = as fast as credit allows.
    let tokensPerSecond: Int
    let burst: Int
    let reserveBytes: UInt32

    var isPaced: Bool { tokensPerSecond > 0 }
    var periodNs: UInt64 { isPaced ? 1_000_000_000 / UInt64(tokensPerSecond) : 0 }
}

struct Counters {
    var tokensSent: UInt64 = 0
    var tokensReceived: UInt64 = 0
    var tasksSubmitted: UInt64 = 0
    var tasksEnded: UInt64 = 0
    /// Ends other than `completed`, usage that is not what arrived, tokens out of order or on no
    /// task, connections that were lost.
    var errors: UInt64 = 0
    var isSubmitting = true
}

/// Mock clients and suppliers on one thread around one epoll set.
final class Engine {
    private static let timerIndex = UInt32.max

    private let load: Load
    private let shared = UnsafeMutablePointer<Counters>.allocate(capacity: 1)
    private let latencies: UnsafeMutablePointer<LatencySamples>
    private let clients: UnsafeMutableBufferPointer<MockClient>
    private let suppliers: UnsafeMutableBufferPointer<MockSupplier>
    private let poll = epoll_create1(0)
    private let timer = timerfd_create(CLOCK_MONOTONIC, Int32(TFD_NONBLOCK))
    private let events = UnsafeMutablePointer<epoll_event>.allocate(capacity: 1_024)
    private var armedNs: UInt64 = 0
    /// When each first task of a paced run is submitted.
    private var opening: [(ns: UInt64, client: Int, stream: Int)] = []
    private var opened = 0

    var counters: Counters { shared.pointee }

    /// Connects everybody, suppliers first.
    init(load: Load, dial: Dial, key: String, token: String) {
        self.load = load
        shared.initialize(to: Counters())
        latencies = .allocate(capacity: 1)
        latencies.initialize(to: LatencySamples())
        clients = .allocate(capacity: load.connections)
        suppliers = .allocate(capacity: load.suppliers)
        for index in 0..<load.suppliers {
            let endpoint = Endpoint(dial)
            watch(endpoint.descriptor, UInt32(index))
            suppliers.initializeElement(
                at: index,
                to: MockSupplier(endpoint, load: load, token: token, counters: shared))
        }
        usleep(300_000)
        for index in 0..<load.connections {
            let endpoint = Endpoint(dial)
            watch(endpoint.descriptor, UInt32(load.suppliers + index))
            clients.initializeElement(
                at: index,
                to: MockClient(
                    endpoint, load: load, key: key, counters: shared, latencies: latencies))
        }
        watch(timer, Self.timerIndex)
    }

    /// Submits the first task of every stream; those of a paced run one after the other.
    func start() {
        let startNs = monotonicNs()
        let count = load.connections * load.streams
        for task in 0..<count {
            let client = task % load.connections
            let stream = task / load.connections + 1
            if load.isPaced {
                let delayNs = load.periodNs * UInt64(task) / UInt64(count)
                opening.append((startNs + delayNs, client, stream))
            } else {
                clients[client].submit(stream)
            }
        }
    }

    func run(untilNs: UInt64) {
        while turn(untilNs: untilNs) < untilNs {}
    }

    /// No task is submitted any more; runs until all have ended.
    func drain(untilNs: UInt64) {
        shared.pointee.isSubmitting = false
        while shared.pointee.tasksEnded < shared.pointee.tasksSubmitted,
            turn(untilNs: untilNs) < untilNs
        {}
    }

    /// Tasks without an end, and tokens that a supplier sent and no client got.
    var lost: UInt64 {
        let tokens = Int64(shared.pointee.tokensSent) - Int64(shared.pointee.tokensReceived)
        return shared.pointee.tasksSubmitted - shared.pointee.tasksEnded + UInt64(abs(tokens))
    }

    /// Supplier's write to client's read, of a paced run.
    func latencyUs(_ quantile: Double) -> Double { latencies.pointee.us(quantile) }

    // MARK: One turn

    private func turn(untilNs: UInt64) -> UInt64 {
        let isBusy = suppliers.contains { $0.canSend }
        let count = epoll_wait(poll, events, 1_024, isBusy ? 0 : 100)
        for position in 0..<Int(max(0, count)) { handle(events[position]) }
        let nowNs = monotonicNs()
        if load.isPaced { emitDue(nowNs) }
        for index in suppliers.indices { suppliers[index].send() }
        for index in clients.indices { clients[index].send() }
        return nowNs
    }

    private func handle(_ event: epoll_event) {
        let index = event.data.u32
        guard index != Self.timerIndex else {
            var expirations: UInt64 = 0
            _ = Glibc.read(timer, &expirations, 8)
            armedNs = 0
            return
        }
        let isWritable = event.events & EPOLLOUT.rawValue != 0
        let isReadable = event.events & ~EPOLLOUT.rawValue != 0
        if index < UInt32(load.suppliers) {
            if isWritable { suppliers[Int(index)].endpoint.writable() }
            if isReadable { suppliers[Int(index)].receive() }
        } else {
            let client = Int(index) - load.suppliers
            if isWritable { clients[client].endpoint.writable() }
            if isReadable { clients[client].receive() }
        }
    }

    /// Sends what is due of a paced run, and sets the timer for what is due next.
    private func emitDue(_ nowNs: UInt64) {
        while opened < opening.count, opening[opened].ns <= nowNs {
            clients[opening[opened].client].submit(opening[opened].stream)
            opened += 1
        }
        var nextNs = opened < opening.count ? opening[opened].ns : .max
        for index in suppliers.indices {
            nextNs = min(nextNs, suppliers[index].emitDue(nowNs))
        }
        guard nextNs != .max, nextNs != armedNs else { return }
        armedNs = nextNs
        var setting = itimerspec()
        setting.it_value.tv_sec = Int(nextNs / 1_000_000_000)
        setting.it_value.tv_nsec = Int(nextNs % 1_000_000_000)
        timerfd_settime(timer, Int32(TFD_TIMER_ABSTIME), &setting, nil)
    }

    /// Readiness to read while there is something; readiness to write when it comes back.
    private func watch(_ descriptor: Int32, _ index: UInt32) {
        var event = epoll_event()
        event.events = EPOLLIN.rawValue | EPOLLOUT.rawValue | EPOLLET.rawValue
        event.data.u32 = index
        epoll_ctl(poll, EPOLL_CTL_ADD, descriptor, &event)
    }
}

/// Latencies in buckets of an eighth of a power of two of nanoseconds.
struct LatencySamples {
    private var buckets = [UInt64](repeating: 0, count: 64 * 8)
    private var count: UInt64 = 0

    mutating func add(_ ns: UInt64) {
        let value = max(ns, 8)
        let exponent = 63 - value.leadingZeroBitCount
        let eighth = Int((value >> UInt64(exponent - 3)) & 7)
        buckets[exponent * 8 + eighth] += 1
        count += 1
    }

    func us(_ quantile: Double) -> Double {
        guard count > 0 else { return .nan }
        var left = UInt64(Double(count) * quantile)
        for (bucket, samples) in buckets.enumerated() {
            guard samples > left else {
                left -= samples
                continue
            }
            let within = (Double(left) + 0.5) / Double(samples)
            let base = Double(UInt64(1) << UInt64(bucket / 8))
            return base * (1 + (Double(bucket % 8) + within) / 8) / 1_000
        }
        return .nan
    }
}
