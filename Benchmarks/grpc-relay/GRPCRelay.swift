import Foundation
import GRPCCore
import GRPCNIOTransportHTTP2Posix
import Glibc

/// `grpc-relay CERTIFICATE KEY AUTHORITY SUPPLIER-PORT`: relays one server-streaming method with
/// grpc-swift-2, one call in and one call out for every task. It routes and does nothing else: no
/// authentication, scheduling, records or limits. Messages are bytes, so that no Protobuf counts.
@main
struct GRPCRelay {
    private static let method = MethodDescriptor(
        fullyQualifiedService: "bench.Inference", method: "Generate")

    static func main() async throws {
        // Whoever starts it may have SIGTERM blocked.
        var none = sigset_t()
        sigemptyset(&none)
        sigprocmask(SIG_SETMASK, &none, nil)
        let arguments = CommandLine.arguments
        guard arguments.count == 5, let supplierPort = Int(arguments[4]) else {
            fatalError("usage: grpc-relay CERTIFICATE KEY AUTHORITY SUPPLIER-PORT")
        }
        let suppliers = GRPCClient(
            transport: try HTTP2ClientTransport.Posix(
                target: .ipv4(address: "127.0.0.1", port: supplierPort),
                transportSecurity: .tls { tls in
                    tls.trustRoots = .certificates([.file(path: arguments[3], format: .pem)])
                    tls.serverCertificateVerification = .noHostnameVerification
                }))
        let transport = HTTP2ServerTransport.Posix(
            address: .ipv4(host: "127.0.0.1", port: 0),
            transportSecurity: .tls(
                certificateChain: [.file(path: arguments[1], format: .pem)],
                privateKey: .file(path: arguments[2], format: .pem)))
        let server = GRPCServer(transport: transport, router: router(to: suppliers))
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await suppliers.runConnections() }
            group.addTask { try await server.serve() }
            group.addTask {
                let port = try await transport.listeningAddress.ipv4?.port ?? 0
                let ready = "{\"event\":\"listening\",\"port\":\(port)}\n"
                write(STDOUT_FILENO, ready, ready.utf8.count)
            }
            try await group.waitForAll()
        }
    }

    private static func router(
        to suppliers: GRPCClient<HTTP2ClientTransport.Posix>
    ) -> RPCRouter<HTTP2ServerTransport.Posix> {
        var router = RPCRouter<HTTP2ServerTransport.Posix>()
        router.registerHandler(
            forMethod: method, deserializer: PlainBytes(), serializer: PlainBytes()
        ) { request, _ in
            var messages = request.messages.makeAsyncIterator()
            guard let prompt = try await messages.next() else {
                throw RPCError(code: .invalidArgument, message: "no request")
            }
            return StreamingServerResponse(metadata: [:]) { writer in
                try await suppliers.serverStreaming(
                    request: ClientRequest(message: prompt), descriptor: method,
                    serializer: PlainBytes(), deserializer: PlainBytes(), options: .defaults
                ) { response in
                    for try await token in response.messages { try await writer.write(token) }
                    return Metadata()
                }
            }
        }
        return router
    }
}

/// Messages as they are.
struct PlainBytes: MessageSerializer, MessageDeserializer {
    func serialize<Bytes: GRPCContiguousBytes>(_ message: [UInt8]) throws -> Bytes {
        Bytes(message)
    }

    func deserialize<Bytes: GRPCContiguousBytes>(_ bytes: Bytes) throws -> [UInt8] {
        bytes.withUnsafeBytes { Array($0) }
    }
}
