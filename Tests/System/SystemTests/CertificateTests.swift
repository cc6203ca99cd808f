import Foundation
import SluiceClient
import Testing
import TLSEngine

extension SystemSuite {
    /// Client certificates over real processes, sockets and TLS.
    struct CertificateTests {
        private struct Holder {
            let certificate: String
            let privateKey: String
            var options: [String] { ["--certificate", certificate, "--private-key", privateKey] }
            var credential: BrokerCredential {
                .certificate(.files(chain: certificate, privateKey: privateKey))
            }
        }

        /// A certificate of the authority in `folder`, made by the command.
        private func make(_ name: String, in folder: String) async throws -> Holder {
            let made = try await run(["certs", "--out", folder, "--client", name])
            return Holder(
                certificate: made.text("certificate") ?? "",
                privateKey: made.text("privateKey") ?? "")
        }

        private func run(_ words: [String]) async throws -> JSONObject {
            let result = try await Program("sluice", words).finish()
            guard result.status == 0 else { throw SystemTestError(description: result.errors) }
            return result.objects.first ?? JSONObject.lines("{}")[0]
        }

        /// Makes a certificate a key and waits until the broker knows it: a new key is taken from the
        /// next turn of the directory on. Answers what names it.
        private func add(
            _ holder: Holder, _ deployment: Deployment, _ options: [String] = []
        ) async throws -> String {
            let prefix = try await addUnseen(holder, deployment, options)
            let limit = ContinuousClock.now + .seconds(30)
            while try await ask(deployment, holder.options).errors.contains("unauthenticated") {
                guard ContinuousClock.now < limit else {
                    throw SystemTestError(description: "the broker never learned of \(prefix)")
                }
            }
            return prefix
        }

        /// Makes a certificate a key, which no broker need take.
        private func addUnseen(
            _ holder: Holder, _ deployment: Deployment, _ options: [String] = []
        ) async throws -> String {
            let added = try await run(
                [
                    "key", "add-certificate", "--data", deployment.data.path, "--certificate",
                    holder.certificate,
                ] + options)
            return added.text("prefix") ?? ""
        }

        private func ask(
            _ deployment: Deployment, _ options: [String]
        ) async throws -> ProgramResult {
            try await Program(
                "sluice",
                [
                    "ask", "--broker", deployment.broker, "--ca", deployment.authority, "--model",
                    "echo",
                ] + options + ["--", "one two"]
            ).finish()
        }

        private func folder() throws -> URL {
            let folder = FileManager.default.temporaryDirectory
                .appendingPathComponent("sluice-clients-" + UUID().uuidString)
            try FileManager.default.createDirectory(
                at: folder, withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o700])
            return folder
        }

        @Test("[H11] a certificate that is a key is taken, and no other; keys go on beside it")
        func taken() async throws {
            let deployment = try await Deployment()
            let others = try folder()
            defer { try? FileManager.default.removeItem(at: others) }
            let alice = try await make("alice", in: deployment.data.path)
            let unknown = try await make("unknown", in: deployment.data.path)
            let stranger = try await make("stranger", in: others.path)
            let prefix = try await add(alice, deployment)
            _ = try await addUnseen(stranger, deployment)

            let answer = try await ask(deployment, alice.options)
            #expect(answer.status == 0, "\(answer.errors)")
            #expect(answer.text == "one two")
            let keyed = try await ask(deployment, ["--key", deployment.clientKey])
            #expect(keyed.status == 0, "\(keyed.errors)")
            for (holder, why) in [(unknown, "no key"), (stranger, "another authority's")] {
                let refused = try await ask(deployment, holder.options)
                #expect(refused.status == 11, "\(why): \(refused.errors)")
                #expect(refused.errors.split(separator: "\n").count == 1, "\(refused.errors)")
                #expect(refused.errors.contains("unauthenticated"), "\(refused.errors)")
            }

            let listed = try await Program(
                "sluice", ["key", "list", "--data", deployment.data.path]
            ).finish().objects.first { $0.text("prefix") == prefix }
            let facts = try ClientCertificateFacts(file: alice.certificate)
            #expect(listed?.text("sha256")?.count == 64)
            #expect(listed?.number("expiresAtMs") == Int(facts.expiry) * 1_000)
            let again = try await Program(
                "sluice",
                [
                    "key", "add-certificate", "--data", deployment.data.path, "--certificate",
                    alice.certificate,
                ]
            ).finish()
            #expect(again.status == 1)
            #expect(again.errors.contains("is or was a key already"))
            let server = try await Program(
                "sluice",
                [
                    "key", "add-certificate", "--data", deployment.data.path, "--certificate",
                    deployment.data.path + "/server.pem",
                ]
            ).finish()
            #expect(server.status == 1)
            #expect(server.errors.contains("clientAuth"))
        }

        @Test("[H6] revoking a certificate ends its running stream and lets it in no more")
        func revoked() async throws {
            let deployment = try await Deployment()
            let alice = try await make("alice", in: deployment.data.path)
            let prefix = try await add(alice, deployment)
            let broker = deployment.broker
            let trust = BrokerTrust.file(deployment.authority)
            let data = deployment.data.path
            try await SluiceClient.withClient(
                .init(brokers: [broker], credential: alice.credential, trust: trust)
            ) { client in
                let answer = client.stream(
                    .chat("demo", "x") {
                        $0.maxOutputTokens = 10_000
                        $0.deadline = .seconds(120)
                    })
                var isRevoked = false
                await #expect(throws: (any Error).self) {
                    for try await _ in answer where !isRevoked {
                        isRevoked = true
                        _ = try await run(["key", "revoke", "--data", data, prefix])
                    }
                }
                #expect(isRevoked, "it ran before")
            }
            #expect(try await ask(deployment, alice.options).status == 11)
            #expect(try await ask(deployment, ["--key", deployment.clientKey]).status == 0)
            let settled = try await deployment.awaitSettled(atLeast: 3)
            #expect(settled.accepted == settled.final)
        }

        @Test("[H6] a connection ends with its certificate, which is refused from then on")
        func expires() async throws {
            let deployment = try await Deployment()
            let folder = try folder()
            defer { try? FileManager.default.removeItem(at: folder) }
            func text(_ name: String) throws -> String {
                try String(contentsOfFile: deployment.data.path + name, encoding: .utf8)
            }
            let authority = CertificateAuthority(
                reopening: CertificatePair(
                    certificate: try text("/ca.pem"), privateKey: try text("/ca-key.pem")))
            let pair = try authority.issueClient(name: "brief", lifetimeSeconds: 8)
            let brief = Holder(
                certificate: folder.path + "/brief.pem", privateKey: folder.path + "/brief-key.pem")
            try Data(pair.certificate.utf8).write(to: URL(fileURLWithPath: brief.certificate))
            try Data(pair.privateKey.utf8).write(to: URL(fileURLWithPath: brief.privateKey))
            _ = try await add(brief, deployment)
            #expect(try await ask(deployment, brief.options).status == 0)
            let trust = BrokerTrust.file(deployment.authority)
            try await SluiceClient.withClient(
                .init(brokers: [deployment.broker], credential: brief.credential, trust: trust)
            ) { client in
                var pieces = 0
                await #expect(throws: (any Error).self, "it ran beyond the certificate's end") {
                    // An answer takes some five seconds, the certificate is good for eight.
                    for _ in 0..<4 {
                        let answer = client.stream(
                            .chat("demo", "x") { $0.deadline = .seconds(120) })
                        for try await _ in answer { pieces += 1 }
                    }
                }
                #expect(pieces > 0, "it never ran")
            }
            #expect(try await ask(deployment, brief.options).status == 11)
            let late = try await Program(
                "sluice",
                [
                    "key", "add-certificate", "--data", deployment.data.path, "--certificate",
                    brief.certificate,
                ]
            ).finish()
            #expect(late.status == 1)
            #expect(late.errors.contains("has expired"))
        }

        @Test("[H7] a worker serves with a supplier's certificate, which is no client's")
        func worker() async throws {
            let deployment = try await Deployment()
            let machine = try await make("machine", in: deployment.data.path)
            _ = try await add(machine, deployment, ["--supplier", "--account", "machines"])
            let worker = try Program(
                "sluice-worker",
                [
                    "--broker", deployment.broker, "--ca", deployment.authority, "--engine",
                    "echo", "--model", "by-certificate=echo", "--slots", "2",
                ] + machine.options)
            try await until("the worker to be connected") {
                JSONObject.lines(worker.errors).contains { $0.text("event") == "connected" }
            }
            let answer = try await deployment.ask("by-certificate", prompt: "one two")
            #expect(answer.status == 0, "\(answer.errors)")
            #expect(answer.text == "one two")
            #expect(try await ask(deployment, machine.options).status == 11, "forbidden")
            worker.send(SIGTERM)
            #expect(try await worker.finish().status == 0)
        }

        @Test("[T3] a certificate is proved in every handshake: no session is resumed")
        func resumption() async throws {
            let deployment = try await Deployment()
            let folder = try folder()
            defer { try? FileManager.default.removeItem(at: folder) }
            let alice = try await make("alice", in: deployment.data.path)
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/bin/sh")
            // A session is written when the server makes one that can be resumed.
            process.arguments = [
                "-c",
                """
                openssl s_client -connect \(deployment.broker) -alpn sluice/1 \
                    -CAfile \(deployment.authority) -cert \(alice.certificate) \
                    -key \(alice.privateKey) -sess_out \(folder.path)/session </dev/null 2>&1
                """,
            ]
            let output = Pipe()
            process.standardOutput = output
            try process.run()
            let text = String(
                decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            process.waitUntilExit()
            #expect(text.contains("New, TLSv1.3"))
            #expect(text.contains("Acceptable client certificate CA names"))
            #expect(!FileManager.default.fileExists(atPath: folder.path + "/session"))
        }

        @Test("SIGHUP takes other client authorities over, for new connections")
        func reloaded() async throws {
            let operated = try await OperatedBroker()
            let mine = operated.folder.appendingPathComponent("clients").path
            let holder = try await make("alice", in: mine)
            let data = operated.folder.appendingPathComponent("data").path
            _ = try await run([
                "key", "add-certificate", "--data", data, "--certificate", holder.certificate,
            ])
            let authorities = operated.folder.appendingPathComponent("authorities.pem").path
            // The server's own authority first, which is not that of the clients.
            func trust(_ path: String) throws {
                try Data(contentsOf: URL(fileURLWithPath: path)).write(
                    to: URL(fileURLWithPath: authorities))
            }
            try trust(operated.authority)
            let broker = try await operated.startBroker([
                "--backend", Deployment.backend, "--client-ca", authorities,
            ])
            try await operated.startWorker(tokensPerSecond: 1_000, slots: 2)
            func status() async throws -> Int32 {
                try await Program(
                    "sluice",
                    [
                        "ask", "--broker", "127.0.0.1:\(operated.port)", "--ca",
                        operated.authority, "--model", "echo",
                    ] + holder.options + ["one"]
                ).finish().status
            }
            #expect(try await status() == 11)
            try trust(mine + "/ca.pem")
            #expect(try await status() == 11, "it waits for SIGHUP")
            kill(broker.pid, SIGHUP)
            try await until("the reload") { broker.logged("certificate_replaced") == 1 }
            for _ in 0..<3 { #expect(try await status() == 0) }
            try Data("no certificate".utf8).write(to: URL(fileURLWithPath: authorities))
            kill(broker.pid, SIGHUP)
            try await until("the refusal") { broker.logged("certificate_refused") == 1 }
            #expect(try await status() == 0, "what was there stays")
            kill(broker.pid, SIGTERM)
            #expect(try await broker.finish() == 0)
        }
    }
}
