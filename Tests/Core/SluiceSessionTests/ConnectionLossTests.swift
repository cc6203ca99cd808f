import SluiceSession
import SluiceWire
import Testing

@Suite struct ConnectionLossTests {
    @Test func everyLossHasTheCodeThatSaysIt() {
        #expect(ConnectionLoss.closed.code == .shuttingDown)
        #expect(ConnectionLoss.finished.code == .shuttingDown)
        #expect(ConnectionLoss.peerError(.flood).code == .flood)
        #expect(ConnectionLoss.peerViolation(.unknownKind).code == .unknownKind)
        #expect(ConnectionLoss.handshakeTimeout.code == .handshakeTimeout)
        #expect(ConnectionLoss.keepAliveTimeout.code == .keepAliveTimeout)
    }

    @Test func onlyAPeersWordOnTheHelloIsForGood() {
        for code in [WireCode.unauthenticated, .forbidden, .versionMismatch] {
            #expect(ConnectionLoss.peerError(code).isRefusalForGood)
            #expect(!ConnectionLoss.peerViolation(code).isRefusalForGood)
        }
        #expect(!ConnectionLoss.peerError(.shuttingDown).isRefusalForGood)
        #expect(!ConnectionLoss.closed.isRefusalForGood)
    }
}
