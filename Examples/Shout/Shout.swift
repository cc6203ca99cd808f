import Foundation
import SluiceSupplier

/// Serves the model `shout`, which repeats a prompt in capitals:
///
///     shout HOST:PORT ca.pem supplier.token
///
/// SIGTERM lets running tasks end.
@main struct Shout {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count == 4 else {
            print("usage: shout HOST:PORT CA-FILE TOKEN-FILE")
            exit(64)
        }
        let token = try String(contentsOfFile: arguments[3], encoding: .utf8)
        let offer = Offer(
            model: "shout", slots: 4, inputPrice: 200_000, outputPrice: 600_000,
            encodings: [.text])
        let supplier = SluiceSupplier(
            brokers: [arguments[1]],
            token: token.trimmingCharacters(in: .whitespacesAndNewlines), offers: [offer],
            configuration: .init(
                trust: .file(arguments[2]),
                onEvent: { event in
                    // Standard output may be a pipe, which `print` would fill before it writes.
                    FileHandle.standardOutput.write(Data("\(event)\n".utf8))
                })
        ) { task, out in
            try await shout(task, out)
        }

        signal(SIGTERM, SIG_IGN)
        let stop = DispatchSource.makeSignalSource(signal: SIGTERM)
        stop.setEventHandler { supplier.drain() }
        stop.resume()
        try await supplier.run()
    }

    /// The engine: one token a word.
    static func shout(_ task: SupplierTask, _ out: AnswerWriter) async throws -> Usage {
        guard case .text(let prompt) = task.payload else {
            throw TaskFailure(code: .upstreamRefused)
        }
        let words = prompt.split(separator: " ")
        var usage = Usage(inputTokens: UInt32(words.count))
        try await out.started(inputTokens: words.count)
        for word in words {
            guard task.maxOutputTokens == 0 || usage.outputTokens < task.maxOutputTokens else {
                out.finish(.length)
                break
            }
            // Suspends while the reader is behind, and throws once the task is cancelled.
            try await out.write(word.uppercased() + " ", tokens: 1)
            usage.outputTokens += 1
        }
        return usage
    }
}
