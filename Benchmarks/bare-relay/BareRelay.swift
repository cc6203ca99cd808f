import ContentArena
import Glibc
import LinuxIO
import SecureTransport
import SluiceWire
import TLSEngine

/// `bare-relay CERTIFICATE KEY [ring|epoll]`: relays the frames of `sluice/1` over the broker's own
/// transport and does nothing else: no authentication, credit of its own, scheduling, records or
/// limits. What it costs is what this machine and this transport cost; the broker is measured
/// beside it.
@main
struct BareRelay {
    static func main() throws {
        let arguments = CommandLine.arguments
        guard arguments.count >= 3 else {
            fatalError("usage: bare-relay CERTIFICATE KEY [BACKEND]")
        }
        signal(SIGPIPE, SIG_IGN)
        // Whoever starts it may have SIGTERM blocked.
        var none = sigset_t()
        sigemptyset(&none)
        sigprocmask(SIG_SETMASK, &none, nil)
        TLSLibrary.prepare()
        let choice = arguments.count > 3 ? BackendChoice(rawValue: arguments[3]) : .automatic
        switch (choice ?? .automatic).resolve().kind {
        case .ring: try serve(RingBackend.self, arguments)
        case .epoll: try serve(EpollBackend.self, arguments)
        }
    }

    static func serve<Backend: NetworkBackend & ~Copyable>(
        _: Backend.Type, _ arguments: [String]
    ) throws {
        let context = try TLSContext(
            serverCertificateFile: arguments[1], privateKeyFile: arguments[2])
        let listener = try ListeningSocket(address: "127.0.0.1", port: 0)
        let port = listener.port
        var limits = TransportLimits()
        limits.channelsMax = 16_384
        limits.sendsEndWaits = false
        var loop = try RelayLoop(
            transport: SecureServer<Backend>(context: context, listener: listener, limits: limits),
            channelsMax: limits.channelsMax)
        StandardStream.output.write("{\"event\":\"listening\",\"port\":\(port)}\n")
        while true { loop.turn() }
    }
}

/// A turn: everything that arrived is routed frame by frame; then each connection that got
/// something seals it into as few records as possible.
struct RelayLoop<Backend: NetworkBackend & ~Copyable>: ~Copyable {
    var transport: SecureServer<Backend>
    var incoming: ContentRegion
    var router: Router

    init(transport: consuming SecureServer<Backend>, channelsMax: Int) throws {
        let region = try ContentRegion(byteCount: 256 * 1_024)
        self.transport = transport
        incoming = region
        router = Router(channelsMax: channelsMax)
    }

    mutating func turn() {
        let count = transport.wait(timeoutMs: -1)
        for position in 0..<count {
            switch transport.event(at: position) {
            case .opened(let channel): router.opened(channel)
            case .received(let channel): receive(channel)
            case .sent(let channel): router.touch(Int(channel.index))
            case .closed(let channel, _): router.closed(Int(channel.index))
            case .established, .accepted, .acceptingPaused, .signal, .doorbell: break
            }
        }
        send()
    }

    private mutating func receive(_ channel: ChannelID) {
        let index = Int(channel.index)
        while true {
            let kept = router.restore(index, into: &incoming)
            let read = transport.read(channel, into: &incoming, at: kept)
            let total = kept + read.plaintextBytes
            Self.route(&router, &incoming, total, from: index)
            if !read.mayHaveMore { return }
        }
    }

    private static func route(
        _ router: inout Router, _ incoming: inout ContentRegion, _ count: Int, from index: Int
    ) {
        incoming.withUnsafeMutableBytes { bytes in
            router.route(UnsafeRawBufferPointer(rebasing: bytes[..<count]), from: index)
        }
    }

    private mutating func send() {
        for index in router.touched {
            let peer = router.peers + index
            peer.pointee.isTouched = false
            guard let channel = peer.pointee.channel else { continue }
            while peer.pointee.output.waitingBytes > 0 {
                guard transport.seal(channel, peer.pointee.output.record) else {
                    transport.awaitSend(channel)
                    break
                }
                peer.pointee.output.sealedRecord()
            }
            transport.flush(channel)
        }
        router.touched.removeAll(keepingCapacity: true)
    }
}
