import LinuxIO
import SecureTransport
import SluiceBrokerCore
import Synchronization

// The end, in order: no new tasks, the last answers, the last connections. Shard 0 leads.
extension BrokerLoop where Backend: ~Copyable {
    private var isLeader: Bool { shard.index == 0 }

    /// A signal came.
    mutating func beginDrain() {
        guard stage == .serving else { return }
        log.event("draining", ("tasks", UInt64(shard.openTasks)))
        transport.stopAccepting()
        links.advance(to: .draining)
    }

    /// Goes where the leader has gone; the leader goes on when every shard is ready.
    mutating func followStage() {
        let wanted = links.stage.load(ordering: .acquiring)
        if wanted >= .draining, stage == .serving {
            stage = .draining
            shard.drain(nowUs: nowUs, out: &output)
            perform()
        }
        if isLeader, wanted == .draining, links.isIdle { links.advance(to: .closing) }
        if wanted == .closing, stage == .draining {
            stage = .closing
            closingSinceUs = nowUs
            // What is still queued (the last ENDs) goes out before each connection closes.
            send()
            for index in channels.indices {
                guard let channel = channels[index] else { continue }
                transport.close(channel, afterSending: true)
            }
        }
    }

    /// Every connection is closed, or had 2 s to be.
    var isOver: Bool {
        stage == .closing
            && (transport.channelCount == 0 || nowUs - closingSinceUs > 2_000_000)
    }
}
