import LinuxIO
import Synchronization
import TLSEngine

/// The certificate that new connections are served with, the authorities of those that their clients
/// may show, and how both are replaced while the broker
/// serves: a connection keeps the one it began with. Any thread.
final class ServerCertificate: Sendable {
    private let current: Mutex<TLSContext>
    /// One reload at a time; the last one has read the files last.
    private let reloading = Mutex(())
    /// Counts replacements. Stored after `context` has changed.
    let generation = Atomic<UInt64>(0)

    init(_ context: TLSContext) {
        current = Mutex(context)
    }

    /// What the next connection gets.
    var context: TLSContext { current.withLock { $0 } }

    /// Takes over what `reread` names. What cannot be used is refused as a whole: the certificate
    /// in use stays, and an event says why.
    func reload(_ reread: () -> BrokerConfiguration.Reloadable?, _ log: BrokerLog) {
        reloading.withLock { _ in
            guard let settings = reread() else {
                return log.event("reload_refused", reason: "configuration")
            }
            do throws(TLSSetupError) {
                try replace(settings, log)
            } catch {
                return log.event("certificate_refused", reason: Self.name(error))
            }
            log.event(
                "reloaded", ("settingsForNextStart", UInt64(settings.waitingSettings)))
        }
    }

    private func replace(
        _ settings: BrokerConfiguration.Reloadable, _ log: BrokerLog
    ) throws(TLSSetupError) {
        let next = try TLSContext(
            serverCertificateFile: settings.certificateFile,
            privateKeyFile: settings.privateKeyFile,
            clientAuthoritiesFile: settings.clientAuthoritiesFile)
        let expiry = UInt64(clamping: next.certificateExpiry ?? 0)
        guard expiry > WallClock.nowUs / 1_000_000 else {
            return log.event("certificate_refused", reason: "expired", ("expiresAt", expiry))
        }
        current.withLock { $0 = next }
        generation.add(1, ordering: .releasing)
        log.event("certificate_replaced", ("expiresAt", expiry))
    }

    private static func name(_ error: TLSSetupError) -> StaticString {
        switch error {
        case .library, .certificateNotMade: "library"
        case .trustUnreadable: "client_authorities_unreadable"
        case .certificateUnreadable: "certificate_unreadable"
        case .privateKeyUnreadable: "key_unreadable"
        case .keyMismatch: "key_does_not_match"
        case .fileUnreadable: "file_unreadable"
        }
    }
}
