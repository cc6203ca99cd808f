package import SluiceSession
import Synchronization

/// One session over one pipe: feeds it bytes and time, sends what it has to say, and hands its
/// events on.
///
/// Any thread may give commands. Commands only queue; one writing task sends what all of them
/// queued since it last looked, so that fast streams share records and system calls.
package final class PeerLink<Session: PeerSession>: Sendable {
    /// Output taken from the session at once: a control frame never waits behind more.
    private static var outputTargetBytes: Int { 65_536 }
    private static var tickMs: UInt64 { 500 }

    private let session: Mutex<Session>
    private let clock: any SessionClock
    private let doorbell = Doorbell()
    /// Calls of `perform` that took events and have not handed them on yet.
    private let handingOn = Atomic(0)
    private let onEvents: @Sendable (PeerLink, [Session.Event]) -> Void

    /// `onEvents` is called without a lock held, from the task that caused the events; events of
    /// the connection as a whole come in order.
    package init(
        session: Session, clock: any SessionClock,
        onEvents: @escaping @Sendable (PeerLink, [Session.Event]) -> Void
    ) {
        self.session = Mutex(session)
        self.clock = clock
        self.onEvents = onEvents
    }

    /// A command that causes no events by itself. Safe to call with the caller's own lock held.
    package func command<Result>(_ body: (inout Session) -> sending Result) -> sending Result {
        let (result, hasOutput) = session.withLock { session in
            (body(&session), session.hasOutput)
        }
        if hasOutput { doorbell.ring() }
        return result
    }

    /// A command whose events are handed on before it returns. Not with a lock held that
    /// `onEvents` takes.
    package func perform(_ body: (inout Session) -> Void) {
        let (events, mustWrite) = session.withLock { session in
            body(&session)
            let events = session.takeEvents()
            if !events.isEmpty { handingOn.add(1, ordering: .relaxed) }
            return (events, session.hasOutput || session.isOver)
        }
        if mustWrite { doorbell.ring() }
        guard !events.isEmpty else { return }
        onEvents(self, events)
        handingOn.subtract(1, ordering: .releasing)
    }

    /// Starts the session and carries its bytes until it is over, its last output is sent and all
    /// its events are handed on, whichever task caused them.
    package func run(over pipe: any BytePipe) async {
        command { $0.start(nowMs: clock.nowMs) }
        let ticking = Task { await tick(pipe) }
        async let reading: Void = read(pipe)
        await write(pipe)
        await pipe.close()
        await reading
        ticking.cancel()
        while handingOn.load(ordering: .acquiring) > 0 { await Task.yield() }
    }

    private var isOver: Bool { session.withLock { $0.isOver } }

    private func read(_ pipe: any BytePipe) async {
        while let bytes = await pipe.receive() {
            perform { $0.receive(bytes, nowMs: clock.nowMs) }
        }
        perform { $0.transportClosed() }
    }

    private func write(_ pipe: any BytePipe) async {
        while true {
            let (bytes, events, isOver) = session.withLock { session in
                let bytes = session.takeOutput(
                    targetBytes: Self.outputTargetBytes, nowMs: clock.nowMs)
                return (bytes, session.takeEvents(), session.isOver)
            }
            if !events.isEmpty { onEvents(self, events) }
            if bytes.isEmpty {
                guard !isOver else { return }
                await doorbell.wait()
                continue
            }
            do throws(TransportError) {
                try await pipe.send(bytes)
            } catch {
                perform { $0.transportClosed() }
                return
            }
        }
    }

    private func tick(_ pipe: any BytePipe) async {
        while !isOver, !Task.isCancelled {
            await clock.sleep(Self.tickMs)
            perform { $0.tick(nowMs: clock.nowMs) }
        }
        // The last words get a moment to leave; a peer that does not read gets no longer.
        await clock.sleep(2 * Self.tickMs)
        await pipe.close()
    }
}
