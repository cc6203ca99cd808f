import Foundation
import FuzzTargets
import SluiceBrokerCore
import Testing

/// What the fuzzers run (`Tools/fuzz`), over random input and over the inputs that are kept: those
/// that stopped a fuzzer once, and those that reach what random bytes do not.
@Suite("Fuzz targets") struct FuzzTests {
    static let targets: [(name: String, run: @Sendable ([UInt8]) -> Void)] = [
        ("frame", FrameFuzz.run), ("control", ControlFuzz.run), ("core", CoreFuzz.run),
        ("ring", RingFuzz.run), ("directory", DirectoryFuzz.run), ("sse", EventStreamFuzz.run),
        ("json", JSONFuzz.run), ("configuration", ConfigurationFuzz.run),
        ("records", RecordFuzz.run),
    ]

    private static let inputs = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().appending(path: "Inputs")

    @Test("random bytes trap nowhere", arguments: targets.indices)
    func randomBytes(_ target: Int) {
        var random = SplitMix64(seed: UInt64(target) + 1)
        for _ in 0..<300 {
            let bytes = (0..<random.next(below: 600)).map { _ in
                UInt8(truncatingIfNeeded: random.next())
            }
            Self.targets[target].run(bytes)
        }
    }

    /// Printable input reaches further into what reads text.
    @Test("random text traps nowhere", arguments: [5, 6, 7])
    func randomText(_ target: Int) {
        let letters = Array("{}[]\",:\\ud0123e-+.truefalsn data:\r\n\u{FEFF}é/*".utf8)
        var random = SplitMix64(seed: UInt64(target))
        for _ in 0..<1_000 {
            let bytes = (0..<random.next(below: 60)).map { _ in
                letters[Int(random.next(below: UInt64(letters.count)))]
            }
            Self.targets[target].run(bytes)
        }
    }

    @Test("inputs that were kept trap nowhere", arguments: targets.indices)
    func keptInputs(_ target: Int) throws {
        let folder = Self.inputs.appending(path: Self.targets[target].name)
        let files = try FileManager.default.contentsOfDirectory(
            at: folder, includingPropertiesForKeys: nil)
        #expect(!files.isEmpty, "no input is kept for this target")
        for file in files { Self.targets[target].run(Array(try Data(contentsOf: file))) }
    }
}
