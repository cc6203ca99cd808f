import ArgumentParser
import Development

/// `sluice certs`
struct CertsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "certs",
        abstract: "Make a development CA and a server certificate.",
        discussion: """
            Writes ca.pem, ca-key.pem, server.pem and server-key.pem (keys with mode 0600). A CA \
            that is already there is kept; the server certificate is made anew. It holds for \
            localhost, 127.0.0.1, ::1 and every --name, for 825 days.
            """)

    @Option(help: "Directory to write to.")
    var out: String

    @Option(name: .long, help: "Another DNS name or address of the server; may be repeated.")
    var name: [String] = []

    func run() throws {
        do {
            let directory = try PrivateFile.makeDirectory(out)
            let files = CertificateFiles(directory: directory)
            try files.make(names: name, replace: true)
            var line = JSONLine()
            line.add("ca", files.authority)
            line.add("certificate", files.server)
            line.add("privateKey", files.serverKey)
            Output.line(line)
        } catch {
            throw Output.failure(error)
        }
    }
}
