package import NIOCore
import Synchronization

/// Notices that the HTTP client of one connection is gone, also while nothing is read from it or
/// written to it. Called on the connection's event loop and from the tasks of its requests.
///
/// A client that closes only its sending side counts as gone: for a request that costs money while
/// it runs, who cannot be heard any more is taken for who does not listen.
package final class PeerWatch: ChannelInboundHandler, RemovableChannelHandler, Sendable {
    package typealias InboundIn = NIOAny

    private struct State {
        var isGone = false
        var onGone: (@Sendable () -> Void)?
        var onWritable: (@Sendable () -> Void)?
        /// Looks whether a client that does not read reads at all.
        var look: Scheduled<Void>?
    }

    /// A client that takes less than this in this time, while there is more, is taken for gone:
    /// else who does not read would keep its connection and all that is held for it.
    private static let (leastBytes, lookTime) = (16_384, TimeAmount.seconds(60))

    private let state = Mutex(State())

    package init() {}

    /// Whether the client is gone.
    var isGone: Bool { state.withLock { $0.isGone } }

    /// Calls `body` once when the client is gone, at once if it is; replaces an earlier call. Nil
    /// ends the watch: the connection goes on to its next request.
    func whenGone(_ body: (@Sendable () -> Void)?) {
        let isGone = state.withLock { state in
            state.onGone = state.isGone ? nil : body
            return state.isGone
        }
        if isGone { body?() }
    }

    /// Calls `body` on the connection's loop whenever it may be writable again, and once it is
    /// closed; nil ends that.
    func whenWritable(_ body: (@Sendable () -> Void)?) {
        state.withLock { $0.onWritable = body }
    }

    package func channelWritabilityChanged(context: ChannelHandlerContext) {
        stopLooking()
        if context.channel.isWritable {
            state.withLock { $0.onWritable }?()
        } else {
            look(at: context.channel, Self.waitingBytes(context.channel))
        }
        context.fireChannelWritabilityChanged()
    }

    /// While it is not writable nothing is added, so that what waits only falls.
    private func look(at channel: any Channel, _ waitingBytes: Int) {
        let look = channel.eventLoop.assumeIsolated().scheduleTask(in: Self.lookTime) { [self] in
            let nowBytes = Self.waitingBytes(channel)
            if nowBytes > max(0, waitingBytes - Self.leastBytes) {
                channel.close(promise: nil)
            } else {
                self.look(at: channel, nowBytes)
            }
        }
        state.withLock { $0.look = look }
    }

    private func stopLooking() {
        state.withLock { state in
            defer { state.look = nil }
            return state.look
        }?.cancel()
    }

    private static func waitingBytes(_ channel: any Channel) -> Int {
        (try? channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0
    }

    package func channelInactive(context: ChannelHandlerContext) {
        stopLooking()
        gone()
        state.withLock { $0.onWritable }?()
        context.fireChannelInactive()
    }

    package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed { gone() }
        context.fireUserInboundEventTriggered(event)
    }

    private func gone() {
        let body = state.withLock { state in
            state.isGone = true
            defer { state.onGone = nil }
            return state.onGone
        }
        body?()
    }
}
