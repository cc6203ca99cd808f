import Foundation
import SluiceWire
import Testing

/// The page and the code say the same.
@Suite struct SpecificationTests {
    let page: String

    init() throws {
        page = try ProtocolFolder.text("Protocol/Specification.md")
    }

    @Test func theCodeTableIsClosedAndTheSameAsInCode() {
        let rows = rows(after: "\n## 17. Codes", columns: 5).filter { UInt16($0[0]) != nil }
        var documented: Set<UInt16> = []
        for row in rows {
            guard let number = UInt16(row[0]), let code = WireCode(rawValue: number) else {
                Issue.record("the code lacks \(row[0])")
                continue
            }
            #expect(documented.insert(number).inserted, "\(number) twice")
            #expect(row[1] == "`\(snakeCase("\(code)"))`")
            #expect(row[2] == "\(code.scope)")
            #expect(row[3] == "\(code.retry)")
            #expect(!row[4].isEmpty)
        }
        #expect(documented == Set(WireCode.allCases.map(\.rawValue)))
    }

    @Test func theKindTableIsTheSameAsInCode() {
        let rows = rows(after: "\n## 3. Frames", columns: 6).filter { $0[0].hasPrefix("0x") }
        var documented: [UInt8: String] = [:]
        for row in rows {
            guard let number = UInt8(row[0].dropFirst(2), radix: 16) else { continue }
            documented[number] = row[1]
        }
        let inCode = Dictionary(
            uniqueKeysWithValues: FrameKind.allCases.map {
                ($0.rawValue, snakeCase("\($0)").uppercased().replacing("_", with: "-"))
            })
        #expect(documented == inCode)
    }

    @Test func theTableOfReportNumbersIsTheSameAsInCode() {
        let numbers = rows(after: "\n## 7. Supply", columns: 3).compactMap { UInt16($0[0]) }
        #expect(numbers == ReportNumber.allCases.map(\.rawValue))
    }

    @Test func theLimitsTableIsTheSameAsInCode() {
        let inCode: [String: UInt64] = [
            "frame bytes": UInt64(WireLimits.frameBytesMax),
            "payload bytes": UInt64(WireLimits.payloadBytesMax),
            "streams of a connection": UInt64(WireLimits.streamsMax),
            "free body bytes of a task": UInt64(WireLimits.freeBodyBytesMax),
            "body bytes of a task, default": UInt64(WireLimits.bodyBytesMaxDefault),
            "smallest BODY but the last": UInt64(WireLimits.bodyFrameBytesMin),
            "smallest reserve": UInt64(WireLimits.windowBytesMin),
            "largest reserve": UInt64(WireLimits.windowBytesMax),
            "reserve where none is asked": UInt64(WireLimits.windowBytesDefault),
            "credit a sender may wait for": WireLimits.usefulCreditBytes,
            "largest credit limit": WireLimits.creditLimitMax,
            "deadline, ms": UInt64(WireLimits.deadlineMsMax),
            "credential bytes": UInt64(WireLimits.credentialBytesMax),
            "extension bytes of a frame": UInt64(WireLimits.extensionBytesMax),
            "affinity keys of a task": UInt64(WireLimits.affinityKeysMax),
            "brokers text bytes": UInt64(WireLimits.brokersBytesMax),
            "model name bytes": UInt64(ModelName.byteCountMax),
            "offers of a connection": UInt64(WireLimits.offersMax),
            "slots of a grant": UInt64(WireLimits.slotsMax),
            "numbers of a report's row": UInt64(WireLimits.reportCountsMax),
            "pause between reports, ms": WireLimits.reportPauseMs,
            "answer to CANCEL, ms": WireLimits.cancelGraceMs,
            "TLS handshake, ms": WireLimits.handshakeMs,
            "HELLO after it, ms": WireLimits.helloMs,
            "stalled reader, ms": WireLimits.stalledReaderMs,
            "stalled upload, ms": WireLimits.stalledUploadMs,
            "unproductive frames": UInt64(WireLimits.unproductiveFramesMax),
        ]
        var documented: [String: UInt64] = [:]
        for row in rows(after: "\n## 19. Limits", columns: 3) {
            guard let value = UInt64(row[1].replacing(",", with: "")) else { continue }
            documented[row[0]] = value
        }
        #expect(documented == inCode)
    }

    /// Every rule is defined once, and every rule that is cited anywhere is defined.
    @Test func rulesAreUniqueAndCitationsResolve() throws {
        var defined: Set<String> = []
        let payloads = try ProtocolFolder.text("Protocol/Payloads.md")
        for match in (page + payloads).matches(of: /\n- \*\*\[([A-Z][0-9]+)\]\*\*/) {
            #expect(defined.insert(String(match.1)).inserted, "\(match.1) is defined twice")
        }
        #expect(defined.count > 100)
        for vector in ProtocolFolder.valid { #expect(defined.contains(vector.rule)) }
        for vector in ProtocolFolder.invalid { #expect(defined.contains(vector.rule)) }
        var texts = [page, payloads]
        for folder in ["Sources/Core/SluiceWire", "Tests/Core/SluiceWireTests"] {
            texts += try ProtocolFolder.files(in: folder).map {
                try ProtocolFolder.text("\(folder)/\($0)")
            }
        }
        for text in texts {
            for match in text.matches(of: /\[([A-Z][0-9]{1,2})\]/) {
                #expect(defined.contains(String(match.1)), "[\(match.1)] is not defined")
            }
        }
    }

    /// Section 23, frame by frame: read, and written again by the code.
    @Test func theExampleIsWhatTheCodeReadsAndWrites() throws {
        let section = try #require(page.range(of: "\n## 23. A whole exchange"))
        let frames = page[section.upperBound...].split(separator: "\n# ").dropFirst().map {
            bytesOfHex(
                $0.split(separator: "\n").dropFirst().prefix { !$0.hasPrefix("```") }
                    .joined())
        }
        var kinds: [FrameKind?] = []
        for bytes in frames {
            let frame = try DecodedFrame(bytes)
            #expect(frame.encoded() == bytes)
            kinds.append(frame.header.kind)
        }
        #expect(
            kinds == [
                .hello, .welcome, .offer, .grant, .hello, .welcome, .submit, .queued, .assign,
                .started, .tokens, .tokens, .tokens, .tokens, .end, .end,
            ])
    }

    /// The cells of a section's table rows, trimmed.
    private func rows(after heading: String, columns: Int) -> [[String]] {
        guard let start = page.range(of: heading) else { return [] }
        let rest = page[start.upperBound...]
        let section = rest.range(of: "\n## ").map { rest[..<$0.lowerBound] } ?? rest
        return section.split(separator: "\n").filter { $0.hasPrefix("| ") }.map {
            $0.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
        }.filter { $0.count == columns }
    }
}
