import SluiceWire
import Testing

/// Relations between limits that the protocol's proofs rest on.
@Suite struct LimitTests {
    @Test func aFrameFitsOneTLSRecord() {
        #expect(WireLimits.payloadBytesMax + FrameHeader.byteCount == WireLimits.frameBytesMax)
        #expect(WireLimits.frameBytesMax <= 16_384)
    }

    @Test func everyControlFrameFitsAFrameWithItsLongestFields() {
        let names = ModelName.byteCountMax
        let run = WireLimits.extensionBytesMax
        #expect(18 + WireLimits.credentialBytesMax + run <= WireLimits.payloadBytesMax)
        #expect(40 + run <= WireLimits.payloadBytesMax)
        #expect(50 + names + run <= WireLimits.payloadBytesMax)
        #expect(SubmitFrame.fixedBytes + names + run <= WireLimits.payloadBytesMax)
        #expect(AssignFrame.fixedBytes + run <= WireLimits.payloadBytesMax)
        #expect(4 + WireLimits.brokersBytesMax <= run)
        #expect(4 + 16 * WireLimits.affinityKeysMax <= run)
    }

    /// The proof under [C13]: a sender that waits has so little left that the next limit differs
    /// by at least r/2 and is sent.
    @Test func aSupplierThatWaitsIsAlwaysGivenMore() {
        for reserve in [WireLimits.windowBytesMin, 8_192, WireLimits.windowBytesMax] {
            let reserve = UInt64(reserve)
            #expect(reserve - WireLimits.usefulCreditBytes >= reserve / 2)
        }
    }

    @Test func usefulCreditCarriesAFrameThatMayBeSent() {
        #expect(WireLimits.usefulCreditBytes >= UInt64(WireLimits.bodyFrameBytesMin))
        #expect(WireLimits.usefulCreditBytes > UInt64(FrameHeader.byteCount))
    }

    @Test func reservesAreOrdered() {
        #expect(WireLimits.windowBytesMin <= WireLimits.windowBytesDefault)
        #expect(WireLimits.windowBytesDefault <= WireLimits.windowBytesMax)
    }

    @Test func inlineBodyOfAssignFillsAFrame() {
        #expect(
            AssignFrame.fixedBytes + 28 + AssignFrame.inlineBodyBytesMax
                == WireLimits.payloadBytesMax)
    }

    @Test func scopesAndClassesOfCodesPartitionTheTable() {
        for code in WireCode.allCases {
            let number = code.rawValue
            #expect((code.scope == .connection) == (1..<32).contains(number))
            #expect(code.endsAcceptedTask == (32..<48).contains(number))
            #expect(code.isRefusal == (48..<80).contains(number))
        }
    }
}
