import Glibc
import Testing

import LinuxIO
import SecureTransport
import TLSEngine

/// OpenSSL's own client against the server: nothing here is judged by our own client alone.
@Suite(.serialized) struct OtherClientTests {
    @Test(arguments: backends) func tls12IsRefused(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, log in
            let output = client(port, "-tls1_2 -alpn sluice/1")
            #expect(output.contains("alert protocol version"))
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.counters.handshakes == 0)
        #expect(log.counters.handshakeFailures == 1)
    }

    @Test(arguments: backends) func tls13WithALPNIsServed(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, log in
            let output = client(port, "-tls1_3 -alpn sluice/1")
            #expect(output.contains("ALPN protocol: sluice/1"))
            #expect(output.contains("TLS_AES_128_GCM_SHA256"))
            #expect(output.contains("Server Temp Key: X25519"))
            #expect(!output.contains("Post-Handshake New Session Ticket"))
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        #expect(log.counters.handshakes == 1)
    }

    @Test(arguments: backends) func p256AloneIsServed(_ kind: BackendKind) throws {
        let log = try withServer(kind) { port, _ in
            let output = client(port, "-tls1_3 -alpn sluice/1 -groups P-256")
            #expect(output.contains("Server Temp Key: ECDH, prime256v1"))
        }
        #expect(log.counters.handshakes == 1)
    }

    @Test(arguments: backends) func noALPNIsAnswersWithItsAlert(_ kind: BackendKind) throws {
        _ = try withServer(kind) { port, _ in
            #expect(client(port, "-tls1_3").contains("alert no application protocol"))
        }
    }

    /// Data before and after KeyUpdates that OpenSSL begins ("K": the server shall follow), under each
    /// suite; the server changes its keys by itself as well.
    @Test(arguments: backends) func dataAndKeyUpdatesPassUnderEverySuite(
        _ kind: BackendKind
    ) throws {
        let suites = [
            "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
        ]
        var tls = TLSLimits()
        tls.recordsPerKey = 3
        let log = try withServer(kind, tls: tls) { port, log in
            for (place, suite) in suites.enumerated() {
                let words = ["one", "K", "two", "k", "three", "K", "four", "five"]
                let output = client(
                    port, "-tls1_3 -alpn sluice/1 -ciphersuites \(suite)", typing: words)
                #expect(output.contains("Cipher is \(suite)"))
                // Echoed; alone in their lines, unlike anything that the client says.
                for word in words where word.count > 1 {
                    #expect(output.contains("\n\(word)\n"), "\(word) under \(suite)")
                }
                #expect(
                    log.reaches(events: place + 1) {
                        if case .closed = $0 { true } else { false }
                    })
            }
        }
        #expect(log.closeReasons.allSatisfy { $0 == .closedByPeer })
        #expect(log.counters.keyUpdatesReceived >= 9)
        #expect(log.counters.keyUpdatesSent >= 6)
    }

    /// The server has agreed to it in the handshake, which OpenSSL leads.
    @Test(arguments: backends) func aClientThatAsksForShortRecordsReadsThem(
        _ kind: BackendKind
    ) throws {
        // One record's worth, from the server, as soon as it may.
        let log = try withServer(kind, .send(8_000)) { port, log in
            let output = client(
                port, "-tls1_3 -alpn sluice/1 -maxfraglen 512", typing: ["wait"])
            #expect(!output.contains("length too long"))
            #expect(log.reaches(events: 1) { if case .closed = $0 { true } else { false } })
        }
        // And not by an alert of its own.
        #expect(log.closeReasons == [.closedByPeer])
    }

    /// What `openssl s_client` prints, which gets each of the lines by itself.
    private func client(_ port: UInt16, _ options: String, typing lines: [String] = []) -> String {
        let typed = lines.map { "sleep 0.1; echo \($0); " }.joined()
        let command =
            "(\(typed)sleep 0.2) | openssl s_client -connect 127.0.0.1:\(port) \(options) 2>&1"
        guard let pipe = popen(command, "r") else { return "" }
        defer { pclose(pipe) }
        var text = ""
        var line = [CChar](repeating: 0, count: 4_096)
        while fgets(&line, Int32(line.count), pipe) != nil {
            text += String(
                decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }
        return text
    }
}
