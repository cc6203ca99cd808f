import Glibc
import SluiceWire

/// One client connection: keeps its streams busy, counts what comes and checks it.
struct MockClient {
    static let windowBytes: UInt64 = 65_536

    private struct Stream {
        var isOpen = false
        var isAccepted = false
        var receivedBytes: UInt64 = 0
        var limitBytes: UInt64 = 0
        var tokens: UInt64 = 0
    }

    var endpoint: Endpoint
    private let load: Load
    private let templates: FrameTemplates
    private let counters: UnsafeMutablePointer<Counters>
    private let latencies: UnsafeMutablePointer<LatencySamples>
    private let streams: UnsafeMutablePointer<Stream>
    private var uploadedBytes: UInt64 = 0
    private var uploadLimitBytes: UInt64 = 0
    private var isWelcome = false
    /// Streams whose SUBMIT waits for upload credit or WELCOME.
    private var waiting: [Int] = []

    init(
        _ endpoint: Endpoint, load: Load, key: String, counters: UnsafeMutablePointer<Counters>,
        latencies: UnsafeMutablePointer<LatencySamples>
    ) {
        self.endpoint = endpoint
        self.load = load
        self.counters = counters
        self.latencies = latencies
        templates = FrameTemplates(load, windowBytes: Self.windowBytes)
        streams = .allocate(capacity: 1_025)
        streams.initialize(repeating: Stream(), count: 1_025)
        var hello: [UInt8] = []
        HelloFrame.encode(
            role: .client, kind: .apiKey, credential: Array(key.utf8), into: &hello)
        self.endpoint.append(hello)
    }

    mutating func submit(_ stream: Int) {
        guard isWelcome, uploadedBytes + UInt64(load.bodyBytes) <= uploadLimitBytes else {
            waiting.append(stream)
            return
        }
        uploadedBytes += UInt64(load.bodyBytes)
        streams[stream] = Stream(isOpen: true, limitBytes: Self.windowBytes)
        endpoint.append(templates.submit, stream: stream)
        counters.pointee.tasksSubmitted += 1
    }

    mutating func send() {
        if !endpoint.isBlocked { endpoint.flush() }
    }

    mutating func receive() {
        while endpoint.fill() {
            let (bytes, count) = endpoint.readable
            var offset = 0
            while count - offset >= 12 {
                let head = Head(bytes + offset)
                let end = offset + 12 + head.payloadBytes
                guard end <= count else { break }
                take(head, bytes + (offset + 12))
                offset = end
            }
            endpoint.use(offset)
        }
        if endpoint.isClosed { counters.pointee.errors += 1 }
    }

    @inline(__always)
    private mutating func take(_ head: Head, _ payload: UnsafeRawPointer) {
        guard head.kind == FrameKind.tokens.rawValue else { return takeOther(head, payload) }
        let stream = streams + head.stream
        let index = UInt64(payload.loadUnaligned(as: UInt32.self))
        if !stream.pointee.isAccepted || index != stream.pointee.tokens {
            counters.pointee.errors += 1
        }
        stream.pointee.tokens += head.tokens
        stream.pointee.receivedBytes += 12 + UInt64(head.payloadBytes)
        counters.pointee.tokensReceived += head.tokens
        if load.isPaced {
            let sentNs = payload.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
            latencies.pointee.add(monotonicNs() - sentNs)
        }
        let leftBytes = stream.pointee.limitBytes - stream.pointee.receivedBytes
        guard leftBytes < Self.windowBytes / 2 else { return }
        stream.pointee.limitBytes = stream.pointee.receivedBytes + Self.windowBytes
        endpoint.append(templates.credit, stream: head.stream)
            .storeBytes(of: stream.pointee.limitBytes, toByteOffset: 12, as: UInt64.self)
    }

    private mutating func takeOther(_ head: Head, _ payload: UnsafeRawPointer) {
        switch FrameKind(rawValue: head.kind) {
        case .welcome:
            uploadLimitBytes = payload.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
            isWelcome = true
            submitWaiting()
        case .queued:
            if !streams[head.stream].isOpen || streams[head.stream].isAccepted {
                counters.pointee.errors += 1
            }
            streams[head.stream].isAccepted = true
        case .end:
            ended(head.stream, payload)
        case .credit where head.stream == 0:
            uploadLimitBytes = max(uploadLimitBytes, payload.loadUnaligned(as: UInt64.self))
            submitWaiting()
        case .ping:
            answerPing(&endpoint, payload)
        case .pong:
            break
        default:
            counters.pointee.errors += 1
        }
    }

    private mutating func ended(_ stream: Int, _ payload: UnsafeRawPointer) {
        let code = payload.loadUnaligned(as: UInt16.self)
        let output = UInt64(payload.loadUnaligned(fromByteOffset: 12, as: UInt32.self))
        let isRight =
            streams[stream].isOpen && code == 0 && streams[stream].isAccepted
            && output == streams[stream].tokens
        if !isRight { counters.pointee.errors += 1 }
        streams[stream] = Stream()
        counters.pointee.tasksEnded += 1
        if counters.pointee.isSubmitting { submit(stream) }
    }

    private mutating func submitWaiting() {
        guard !waiting.isEmpty else { return }
        let streams = waiting
        waiting.removeAll(keepingCapacity: true)
        guard counters.pointee.isSubmitting else { return }
        for stream in streams { submit(stream) }
    }
}

/// PONG with the value of the PING.
func answerPing(_ endpoint: inout Endpoint, _ payload: UnsafeRawPointer) {
    var pong: [UInt8] = []
    PingFrame(value: payload.loadUnaligned(as: UInt64.self)).encode(as: .pong, into: &pong)
    endpoint.append(pong)
}
