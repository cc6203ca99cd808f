import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import SluiceSession
import SluiceWire

/// A certificate authority and a certificate for `localhost`, made by the `openssl` command.
struct TestCertificates {
    let directory: URL

    var authority: String { directory.appending(path: "ca.pem").path() }
    var certificate: String { directory.appending(path: "cert.pem").path() }
    var key: String { directory.appending(path: "key.pem").path() }

    init() throws {
        directory = FileManager.default.temporaryDirectory
            .appending(path: "sluice-sdk-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        try openssl(
            [
                "req", "-x509", "-days", "2", "-subj", "/CN=test", "-keyout", "ca.key", "-out",
                "ca.pem",
            ]
                + curve)
        try openssl(
            [
                "req", "-x509", "-days", "2", "-subj", "/CN=localhost", "-CA", "ca.pem",
                "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost",
                "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "key.pem",
                "-out", "cert.pem",
            ] + curve)
    }

    func remove() {
        try? FileManager.default.removeItem(at: directory)
    }

    private func openssl(_ arguments: [String]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["openssl"] + arguments
        process.currentDirectoryURL = directory
        process.standardError = FileHandle.nullDevice
        process.standardOutput = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw CocoaError(.executableLoad) }
    }
}

/// A broker over real TLS on loopback that answers every task with its own body, in frames of at
/// most 16 KiB, within the client's credit.
struct LoopbackBroker {
    let channel: any Channel

    var port: Int { channel.localAddress?.port ?? 0 }

    init(
        _ certificates: TestCertificates, protocols: [String] = ["sluice/1"],
        newest: TLSVersion = .tlsv13, requiresCertificate: Bool = false
    ) async throws {
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: try NIOSSLCertificate.fromPEMFile(certificates.certificate)
                .map { .certificate($0) },
            privateKey: .privateKey(
                try NIOSSLPrivateKey(file: certificates.key, format: .pem)))
        configuration.applicationProtocols = protocols
        configuration.maximumTLSVersion = newest
        if requiresCertificate {
            configuration.certificateVerification = .noHostnameVerification
            configuration.trustRoots = .file(certificates.authority)
        }
        let context = try NIOSSLContext(configuration: configuration)
        channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandlers([
                        NIOSSLServerHandler(context: context),
                        MirrorHandler(requiresCertificate: requiresCertificate),
                    ])
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    func close() async throws {
        try await channel.close()
    }
}

private final class MirrorHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private struct Mirrored {
        var body: [UInt8]
        let bodyBytes: Int
        var limitBytes: UInt64
        var costBytes: UInt64 = 0
        var sentBytes = 0
    }

    private var assembler = FrameAssembler()
    private var tasks: [StreamID: Mirrored] = [:]
    private var output: [UInt8] = []
    private let requiresCertificate: Bool

    init(requiresCertificate: Bool) {
        self.requiresCertificate = requiresCertificate
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        assembler.append(Array(unwrapInboundIn(data).readableBytesView))
        do {
            while let frame = try assembler.next() { try receive(frame) }
        } catch {
            context.close(promise: nil)
        }
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(bytes: output)), promise: nil)
        output = []
    }

    private func receive(_ frame: ReceivedFrame) throws {
        let stream = frame.header.stream
        switch frame.header.kind {
        case .hello:
            let hello = try HelloFrame(decoding: frame.payload.span)
            let isCertificate = hello.credentialKind == .clientCertificate
            guard isCertificate == requiresCertificate, isCertificate == hello.credential.isEmpty
            else {
                ErrorFrame(code: .unauthenticated).encode(into: &output)
                return
            }
            output += welcomeBytes(maxBodyBytes: 1 << 24)
        case .submit:
            let submit = try frame.submit
            tasks[stream] = Mirrored(
                body: Array(frame.payload[submit.inlineBody]),
                bodyBytes: Int(submit.terms.bodyBytes), limitBytes: submit.creditLimitBytes)
            output += creditBytes(stream, UInt64(submit.terms.bodyBytes))
            answer(stream)
        case .body:
            tasks[stream]?.body += frame.payload
            answer(stream)
        case .credit:
            tasks[stream]?.limitBytes = try frame.credit.limitBytes
            send(stream)
        default: break
        }
    }

    private func answer(_ stream: StreamID) {
        guard let task = tasks[stream], task.body.count == task.bodyBytes else { return }
        output += queuedBytes(stream)
        send(stream)
    }

    private func send(_ stream: StreamID) {
        guard var task = tasks[stream], task.body.count == task.bodyBytes else { return }
        while task.sentBytes < task.bodyBytes {
            let credit = Int(task.limitBytes - task.costBytes) - FrameHeader.byteCount
            let byteCount = min(credit, WireLimits.payloadBytesMax, task.bodyBytes - task.sentBytes)
            guard byteCount > 0 else { break }
            output += tokenBytes(
                stream, Array(task.body[task.sentBytes..<task.sentBytes + byteCount]))
            task.sentBytes += byteCount
            task.costBytes += UInt64(FrameHeader.byteCount + byteCount)
        }
        tasks[stream] = task
        guard task.sentBytes == task.bodyBytes else { return }
        tasks[stream] = nil
        output += endBytes(stream)
    }
}
