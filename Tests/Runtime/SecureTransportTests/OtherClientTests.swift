import Glibc
import Testing

import LinuxIO
import SecureTransport

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

    /// What `openssl s_client` prints.
    private func client(_ port: UInt16, _ options: String) -> String {
        let command = "openssl s_client -connect 127.0.0.1:\(port) \(options) </dev/null 2>&1"
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
