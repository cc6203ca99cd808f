import NIOCore
import Synchronization

/// Notices that the HTTP client of one connection is gone, also while nothing is read from it or
/// written to it. Called on the connection's event loop and from the tasks of its requests.
///
/// A client that closes only its sending side counts as gone: for a request that costs money while
/// it runs, who cannot be heard any more is taken for who does not listen.
final class PeerWatch: ChannelInboundHandler, RemovableChannelHandler, Sendable {
    typealias InboundIn = NIOAny

    private struct State {
        var isGone = false
        var onGone: (@Sendable () -> Void)?
        var onWritable: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())

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

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { state.withLock { $0.onWritable }?() }
        context.fireChannelWritabilityChanged()
    }

    func channelInactive(context: ChannelHandlerContext) {
        gone()
        state.withLock { $0.onWritable }?()
        context.fireChannelInactive()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
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
