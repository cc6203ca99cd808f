import ArgumentParser
import Foundation
import SluiceClient
import SluiceWire

/// `sluice ask`
struct AskCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ask",
        abstract: "Submit one task and print its answer as it comes.",
        discussion: """
            The answer goes to standard output as it is, without a line end of its own; what goes \
            wrong goes to standard error in one line. Ctrl-C cancels the task down to the engine.

            Exit codes:
              0   the answer is complete
              1   anything that is not listed
              10  no broker reached, its certificate refused, or the connection lost
              11  the key or certificate is unknown, expired, revoked, or not for clients
              12  no supplier offers the model
              13  refused for now: all suppliers busy, a limit reached, the broker draining
              14  refused for good: the request itself
              15  the account or the task's budget is used up
              16  the deadline passed
              17  the supplier was lost after its answer had begun
              18  the supplier could not complete the task
              19  the answer could not be written
              20  the broker shut down before the task was done
              64  wrong use of options
              130 cancelled by SIGINT or SIGTERM
            """)

    @Option(help: "Broker as host:port.")
    var broker: String

    @Option(help: "File of the certificate authority that the broker's certificate comes from.")
    var ca: String

    @Option(help: "Client key; other users of this machine can see it.")
    var key: String?

    @Option(help: "File that holds the client key. SLUICE_KEY in the environment works too.")
    var keyFile: String?

    @Option(help: "PEM file of a client certificate and its chain, instead of a key.")
    var certificate: String?

    @Option(help: "PEM file of the certificate's private key.")
    var privateKey: String?

    @Option(help: "Model to ask.")
    var model: String

    @Option(help: "Longest answer in tokens.")
    var maxTokens: UInt32?

    @Option(help: "Milliseconds from now to the last byte; 600,000 at most and if not given.")
    var deadlineMs: UInt32?

    @Flag(help: "Print JSON lines: every chunk, then one object with usage, cost and status.")
    var json = false

    @Argument(help: "The prompt; a lone - reads it from standard input.")
    var prompt: String

    func validate() throws {
        guard maxTokens != 0 else { throw ValidationError("--max-tokens must be at least 1") }
        guard (1...600_000).contains(deadlineMs ?? 1) else {
            throw ValidationError("--deadline-ms must be 1 to 600000")
        }
    }

    func run() async throws {
        signal(SIGPIPE, SIG_IGN)
        let configuration = try SluiceClient.Configuration(
            brokers: [broker], credential: readCredential(), trust: .file(ca))
        let request = try TaskRequest.chat(model, readPrompt()) {
            $0.maxOutputTokens = maxTokens
            $0.deadline = deadlineMs.map { .milliseconds(Int64($0)) }
        }
        let status = await Asking(isJSON: json).run(request, with: configuration)
        throw ExitCode(status.rawValue)
    }

    private func readCredential() throws -> BrokerCredential {
        switch (certificate, privateKey) {
        case (nil, nil): return .secret(try readKey())
        case (let certificate?, let privateKey?):
            guard key == nil, keyFile == nil else {
                throw ValidationError("a key and a certificate cannot be given together")
            }
            return .certificate(.files(chain: certificate, privateKey: privateKey))
        default: throw ValidationError("--certificate and --private-key are given together")
        }
    }

    private func readKey() throws -> String {
        let text: String?
        if let key {
            text = key
        } else if let keyFile {
            text = try? String(contentsOfFile: keyFile, encoding: .utf8)
            guard text != nil else {
                throw ValidationError("--key-file \(keyFile) cannot be read")
            }
        } else {
            text = ProcessInfo.processInfo.environment["SLUICE_KEY"]
        }
        let trimmed = text?.trimmingCharacters(in: .whitespacesAndNewlines) ?? ""
        guard !trimmed.isEmpty else {
            throw ValidationError(
                "a key is needed (--key, --key-file or SLUICE_KEY), or --certificate and "
                    + "--private-key")
        }
        return trimmed
    }

    private func readPrompt() throws -> String {
        guard prompt == "-" else { return prompt }
        let bytes = FileHandle.standardInput.readDataToEndOfFile()
        guard let text = String(data: bytes, encoding: .utf8) else {
            throw ValidationError("standard input is not UTF-8")
        }
        return text
    }
}
