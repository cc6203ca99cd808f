import LinuxIO
import SecureTransport
import SluiceBrokerCore
import Synchronization

// The end, in order: no new tasks, the last answers, the last connections. Shard 0 leads.
extension BrokerLoop where Backend: ~Copyable {
    private var isLeader: Bool { shard.index == 0 }

    /// SIGHUP came. Files are read on a thread of their own: a disk may be slow, and streams must
    /// not wait for it.
    mutating func beginReload() {
        let (certificate, reread, log) = (certificate, reread, log)
        do {
            try KernelThread { certificate.reload(reread, log) }.detach()
        } catch {
            log.event("reload_refused", reason: "no_thread")
        }
    }

    /// SIGTERM or SIGINT came.
    mutating func beginDrain() {
        guard stage == .serving else { return }
        ServiceSupervisor.notify(.stopping)
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
