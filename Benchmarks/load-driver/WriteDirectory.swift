import ArgumentParser
import COpenSSL
import SharedMemory
import SluiceRecordFormat
import SluiceWire

struct WriteDirectory: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "directory",
        abstract: "Make a directory that holds one API key and one supplier token.")

    @Option(help: "Where to make it.")
    var path: String
    @Option(help: "API key of the mock clients.")
    var key = "sk-bench"
    @Option(help: "Token of the mock suppliers.")
    var token = "st-bench"

    func run() throws {
        var writer = try DirectoryWriter(directory: path)
        try writer.upsert([
            DirectoryEntry(digest: digest(of: key), account: 1, role: .client),
            DirectoryEntry(digest: digest(of: token), account: 2, role: .supplier, supplier: 1),
        ])
    }

    private func digest(of secret: String) -> Digest256 {
        let text = Array(secret.utf8)
        var bytes = [UInt8](repeating: 0, count: 32)
        _ = SHA256(text, text.count, &bytes)
        guard let digest = Digest256(bytes.span) else { fatalError("32 bytes are a digest") }
        return digest
    }
}
