import Foundation
package import SluiceSupplier
package import SluiceTransport
import SluiceWire

/// What the way to a broker, and its answer, mean for a supplier. Pure.
package enum BrokerFindings {
    /// A certificate that ends so soon is worth a word, and clocks further apart than this too.
    private static let certificateDays: Int64 = 14
    private static let skewMs: UInt64 = 5_000

    /// Says the steps up to TLS. True where all went well.
    package static func checks(
        _ outcome: BrokerProbe.Outcome, name: String, host: String,
        now: Int64 = Int64(Date().timeIntervalSince1970), say: (DoctorCheck) -> Void
    ) -> Bool {
        switch outcome {
        case .unreadableTrust:
            say(
                DoctorCheck(
                    "\(name): ca", .fail, "the file of authorities cannot be read",
                    expected: "a PEM file", remedy: "correct --ca; sluice certs makes one"))
            return false
        case .unresolved:
            say(
                DoctorCheck(
                    "\(name): name", .fail, "no address for \(host)", expected: "a name in DNS",
                    remedy: "correct --broker, or this machine's resolver"))
            return false
        case .unreachable(let address):
            say(DoctorCheck("\(name): name", .ok, "\(host) is \(address)"))
            say(
                DoctorCheck(
                    "\(name): tcp", .fail, "\(address) takes no connection",
                    expected: "a listening broker",
                    remedy: "check port and firewall; outbound TCP must be allowed"))
            return false
        case .untrusted(let address, let shown):
            say(DoctorCheck("\(name): tcp", .ok, address))
            say(untrusted(shown, name: name, host: host, now: now))
            return false
        case .otherProtocol(let address):
            say(DoctorCheck("\(name): tcp", .ok, address))
            say(
                DoctorCheck(
                    "\(name): protocol", .fail, "the peer does not speak sluice/1",
                    expected: "a Sluice broker of protocol version 1",
                    remedy: "correct the port: it is not that of the HTTP gateway"))
            return false
        case .secure(let address, let certificate):
            say(DoctorCheck("\(name): tcp", .ok, address))
            say(trusted(certificate, name: name, now: now))
            return true
        }
    }

    private static func untrusted(
        _ shown: BrokerProbe.Certificate?, name: String, host: String, now: Int64
    ) -> DoctorCheck {
        let tls = "\(name): tls"
        guard let shown else {
            return DoctorCheck(
                tls, .fail, "no TLS 1.3 there", expected: "a Sluice broker",
                remedy: "correct the port; a proxy on the way must pass TLS through")
        }
        if now > shown.notAfter {
            return DoctorCheck(
                tls, .fail, "the certificate ended on \(day(shown.notAfter))",
                expected: "one that is valid",
                remedy: "tell the operator, unless this machine's clock is wrong: "
                    + "it says \(day(now))")
        }
        if now < shown.notBefore {
            return DoctorCheck(
                tls, .fail, "the certificate begins on \(day(shown.notBefore))",
                expected: "one that is valid",
                remedy: "set this machine's clock: it says \(day(now))")
        }
        return DoctorCheck(
            tls, .fail, "the certificate is not trusted, or is not for \(host)",
            expected: "one for \(host), signed by an authority of --ca",
            remedy: "give --ca the operator's authority, and the broker by the name in its "
                + "certificate")
    }

    private static func trusted(
        _ certificate: BrokerProbe.Certificate?, name: String, now: Int64
    ) -> DoctorCheck {
        let tls = "\(name): tls"
        guard let certificate else { return DoctorCheck(tls, .ok, "trusted") }
        let days = (certificate.notAfter - now) / 86_400
        let text = "trusted, valid until \(day(certificate.notAfter))"
        guard days >= certificateDays else {
            return DoctorCheck(
                tls, .warn, text, expected: "\(certificateDays) days or more",
                remedy: "tell the operator that it ends in \(days) days")
        }
        return DoctorCheck(tls, .ok, text)
    }

    /// Says what a report shows.
    package static func check(
        _ report: SupplyReport, name: String, ownClockMs: UInt64, roundMs: UInt64,
        say: (DoctorCheck) -> Void
    ) {
        say(DoctorCheck("\(name): credential", .ok, "the token is taken; protocol version 1"))
        let theirs = report.brokerClockMs
        let apartMs = theirs > ownClockMs ? theirs - ownClockMs : ownClockMs - theirs
        // The answer is as old as its way was long.
        let skew = apartMs - min(apartMs, roundMs)
        say(
            skew < skewMs
                ? DoctorCheck("\(name): clock", .ok, "within \(skew) ms of the broker's")
                : DoctorCheck(
                    "\(name): clock", .warn, "\(skew) ms from the broker's",
                    expected: "less than \(skewMs) ms",
                    remedy: "keep this machine's time by NTP: certificates and logs depend on it"))
        switch report.breaker {
        case .closed: break
        case .open(let time):
            say(
                DoctorCheck(
                    "\(name): standing", .warn,
                    "its tasks failed; none comes for \(time.components.seconds + 1) s",
                    expected: "answers that complete",
                    remedy: "sluice-worker why-idle says more; the worker's log names each "
                        + "failure"))
        case .halfOpen:
            say(
                DoctorCheck(
                    "\(name): standing", .warn, "its tasks failed; one may try now",
                    expected: "answers that complete", remedy: "it is mended by the next success"))
        }
        let others = report.connections - min(report.connections, 1)
        say(
            DoctorCheck(
                "\(name): supply", .ok,
                others == 0
                    ? "no worker of this token is connected now"
                    : "\(others) connected with this token, \(report.total.offers) offers, "
                        + "\(report.total.slotsGranted) slots"))
    }

    /// What it means that there was no report.
    package static func check(_ error: ReportError, name: String) -> DoctorCheck {
        let credential = "\(name): credential"
        switch error {
        case .refused(.unauthenticated):
            return DoctorCheck(
                credential, .fail, "the token is not known here", expected: "a supplier token",
                remedy: "it may be revoked, expired or of another deployment: ask the operator "
                    + "for a new one")
        case .refused(.forbidden):
            return DoctorCheck(
                credential, .fail, "the token is a client's key", expected: "a supplier token",
                remedy: "ask the operator: sluice key issue --supplier")
        case .refused(.versionMismatch):
            return DoctorCheck(
                "\(name): protocol", .fail, "no version in common",
                expected: "protocol version 1", remedy: "update this worker")
        case .refused(let code):
            return DoctorCheck(
                "\(name): connection", .warn, "refused for now (code \(code.rawValue))",
                expected: "a connection", remedy: "a worker tries again by itself")
        case .notTold:
            return DoctorCheck(
                credential, .warn,
                "the token is taken; the broker does not tell how its suppliers stand",
                expected: "an answer to ASK", remedy: "ask the operator to update the broker")
        case .transport:
            return DoctorCheck(
                "\(name): connection", .fail, "lost before the broker answered",
                expected: "a connection", remedy: "run this again; tell the operator if it stays")
        }
    }

    private static func day(_ seconds: Int64) -> String {
        Date(timeIntervalSince1970: Double(seconds)).formatted(
            .iso8601.year().month().day())
    }
}
