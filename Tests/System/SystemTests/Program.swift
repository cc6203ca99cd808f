import Foundation
import Testing

/// A test could not do its work: a program did not start, or something awaited did not come.
struct SystemTestError: Error, CustomStringConvertible {
    let description: String
}

/// What a finished program left.
struct ProgramResult {
    let status: Int32
    let output: Data
    let errors: String

    var text: String { String(decoding: output, as: UTF8.self) }
    var objects: [JSONObject] { JSONObject.lines(text) }
}

/// One of the built programs, running; its output goes to files, so that it never blocks.
final class Program {
    /// Where the tests and the programs were built to.
    static let folder = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        .deletingLastPathComponent()

    let process = Process()
    private let outputFile: URL
    private let errorFile: URL
    private let input = Pipe()

    /// Starts `name`. `input` nil leaves standard input open and empty.
    init(
        _ name: String, _ arguments: [String], input text: Data? = nil,
        environment: [String: String] = [:], output: FileHandle? = nil
    ) throws {
        let base = FileManager.default.temporaryDirectory
            .appendingPathComponent("sluice-test-" + UUID().uuidString)
        outputFile = base.appendingPathExtension("out")
        errorFile = base.appendingPathExtension("err")
        for file in [outputFile, errorFile] {
            _ = FileManager.default.createFile(atPath: file.path, contents: nil)
        }
        process.executableURL = Self.folder.appendingPathComponent(name)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardOutput = try output ?? FileHandle(forWritingTo: outputFile)
        process.standardError = try FileHandle(forWritingTo: errorFile)
        process.standardInput = input
        try process.run()
        if let text {
            let writer = input.fileHandleForWriting
            Thread.detachNewThread {
                try? writer.write(contentsOf: text)
                try? writer.close()
            }
        }
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        for file in [outputFile, errorFile] { try? FileManager.default.removeItem(at: file) }
    }

    var pid: Int32 { process.processIdentifier }
    var output: Data { (try? Data(contentsOf: outputFile)) ?? Data() }
    var errors: String {
        String(decoding: (try? Data(contentsOf: errorFile)) ?? Data(), as: UTF8.self)
    }
    var objects: [JSONObject] { JSONObject.lines(String(decoding: output, as: UTF8.self)) }

    func send(_ signal: Int32) {
        kill(pid, signal)
    }

    /// Waits for the program's end.
    func finish(within seconds: Double = 60) async throws -> ProgramResult {
        try await until("the end of \(process.executableURL?.lastPathComponent ?? "")", seconds) {
            !process.isRunning
        }
        return ProgramResult(status: process.terminationStatus, output: output, errors: errors)
    }
}

/// Waits until `condition` holds, looking every 20 ms. The limit is there to end a test that
/// would never end; no test depends on its size.
func until(
    _ what: String, _ seconds: Double = 30, _ condition: () throws -> Bool
) async throws {
    let limit = ContinuousClock.now + .seconds(seconds)
    while try !condition() {
        guard ContinuousClock.now < limit else {
            throw SystemTestError(description: "waited \(seconds) s in vain for \(what)")
        }
        try await Task.sleep(for: .milliseconds(20))
    }
}

/// One line of a program's JSON output.
struct JSONObject {
    private let members: [String: Any]

    /// Every line that is an object.
    static func lines(_ text: String) -> [JSONObject] {
        text.split(separator: "\n").compactMap { line in
            let value = try? JSONSerialization.jsonObject(with: Data(line.utf8))
            return (value as? [String: Any]).map { JSONObject(members: $0) }
        }
    }

    var names: Set<String> { Set(members.keys) }
    func text(_ name: String) -> String? { members[name] as? String }
    func number(_ name: String) -> Int? { (members[name] as? NSNumber)?.intValue }
    func texts(_ name: String) -> [String] { members[name] as? [String] ?? [] }
    func object(_ name: String) -> JSONObject {
        JSONObject(members: members[name] as? [String: Any] ?? [:])
    }
}
