import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import SluiceClient

/// Sends one stream on the loop of its connection, as it arrives and no faster than the client takes
/// it. No task is woken for an event: where the broker's connection is on the same loop, an event is
/// read, decoded and written in one turn of one thread. Bound to the loop, but for `run`.
final class StreamPump {
    private let channel: any Channel
    /// Where the framework frames bodies; what is written from here on is on its way to the socket.
    private let encoder: ChannelHandlerContext?
    private let metrics: GatewayMetrics
    private let arrived: ContinuousClock.Instant
    private let done: EventLoopPromise<Void>
    private var stream: EventStream
    private var eventCount = 0
    /// What `stream` and `channel` do may call back.
    private var isStepping = false
    private var isOver = false

    private init(
        _ stream: EventStream, _ channel: any Channel, _ metrics: GatewayMetrics,
        since arrived: ContinuousClock.Instant
    ) {
        self.channel = channel
        encoder = try? channel.pipeline.syncOperations.context(
            handlerType: HTTPResponseEncoder.self)
        self.metrics = metrics
        self.arrived = arrived
        self.stream = stream
        done = channel.eventLoop.makePromise()
    }

    /// Sends a stream whose first event or end is there, to its end. Throws where the connection is
    /// lost; the task is then cancelled by who watches `peer`. Cancelling the caller ends it.
    static func run(
        _ stream: EventStream, over channel: any Channel, peer: PeerWatch,
        metrics: GatewayMetrics, since arrived: ContinuousClock.Instant
    ) async throws {
        let loop = channel.eventLoop
        let stop = loop.makePromise(of: Void.self)
        defer { stop.succeed() }
        try await withTaskCancellationHandler {
            try await loop.flatSubmit {
                let pump = StreamPump(stream, channel, metrics, since: arrived)
                let bound = NIOLoopBound(pump, eventLoop: loop)
                let turn: @Sendable () -> Void = {
                    if loop.inEventLoop {
                        bound.value.turn()
                    } else {
                        loop.execute { bound.value.turn() }
                    }
                }
                stop.futureResult.whenFailure { bound.value.finish($0) }
                pump.done.futureResult.whenComplete { _ in
                    stream.whenReady(nil)
                    peer.whenWritable(nil)
                }
                peer.whenWritable(turn)
                stream.whenReady(turn)
                return pump.done.futureResult
            }.get()
        } onCancel: {
            stream.cancel()
            stop.fail(CancellationError())
        }
    }

    private func turn() {
        guard !isStepping, !isOver else { return }
        guard channel.isActive else { return finish(ChannelError.ioOnClosedChannel) }
        // Writing may call back too, where it fills the channel or empties it.
        isStepping = true
        defer { isStepping = false }
        while !isOver, channel.isWritable {
            switch stream.step() {
            case .wait: return
            case .write(let bytes): send(bytes)
            case .last(let bytes):
                send(bytes)
                if stream.hasFailed { metrics.brokeOff() }
                finish(nil)
            }
        }
    }

    private func send(_ bytes: [UInt8]) {
        guard !bytes.isEmpty else { return }
        if eventCount == 0, stream.eventCount > 0 { metrics.began(after: .now - arrived) }
        metrics.wrote(bytes.count, events: stream.eventCount - eventCount)
        eventCount = stream.eventCount
        guard let encoder else {
            channel.writeAndFlush(HTTPResponsePart.body(ByteBuffer(bytes: bytes)), promise: nil)
            return
        }
        // What the framework would make of it passes four handlers in three buffers (decision 83).
        let chunk = IOData.byteBuffer(BodyChunk.framed(bytes, by: channel.allocator))
        encoder.writeAndFlush(NIOAny(chunk), promise: nil)
    }

    private func finish(_ error: (any Error)?) {
        guard !isOver else { return }
        isOver = true
        if let error { done.fail(error) } else { done.succeed() }
    }
}
