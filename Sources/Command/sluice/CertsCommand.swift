import ArgumentParser
import Development

/// `sluice certs`
struct CertsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "certs",
        abstract: "Make a development CA and a certificate for a server or a client.",
        discussion: """
            Writes ca.pem, ca-key.pem, server.pem and server-key.pem (keys with mode 0600). A CA \
            that is already there is kept; the server certificate is made anew. It holds for \
            localhost, 127.0.0.1, ::1 and every --name, for 825 days. With --client NAME the \
            certificate is one for a client or supplier, in NAME.pem and NAME-key.pem, and no \
            server certificate is made: `sluice key add-certificate` makes it a key, and brokers \
            take it that have the CA as --client-ca.
            """)

    @Option(help: "Directory to write to.")
    var out: String

    @Option(name: .long, help: "Another DNS name or address of the server; may be repeated.")
    var name: [String] = []

    @Option(help: "Name of the client or supplier to make a certificate for.")
    var client: String?

    @Option(help: "Days that a client's certificate holds, 1 to 825.")
    var days = 825

    func validate() throws {
        guard (1...825).contains(days) else { throw ValidationError("--days is 1 to 825") }
        guard let client else { return }
        guard name.isEmpty else { throw ValidationError("--name is for a server's certificate") }
        let isPlain = client.utf8.allSatisfy {
            switch $0 {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
                true
            default: false
            }
        }
        guard isPlain, (1...64).contains(client.utf8.count), !["ca", "server"].contains(client),
            !client.hasSuffix("-key")
        else {
            throw ValidationError(
                "--client is a name of 1 to 64 letters, digits, - and _, and neither ca nor "
                    + "server, and does not end in -key")
        }
    }

    func run() throws {
        do {
            let directory = try PrivateFile.makeDirectory(out)
            let files = CertificateFiles(directory: directory)
            var line = JSONLine()
            line.add("ca", files.authority)
            if let client {
                try files.makeClient(client, days: days)
                line.add("certificate", files.client(client))
                line.add("privateKey", files.clientKey(client))
            } else {
                try files.make(names: name, replace: true)
                line.add("certificate", files.server)
                line.add("privateKey", files.serverKey)
            }
            Output.line(line)
        } catch {
            throw Output.failure(error)
        }
    }
}
