import Foundation
import Testing

extension SystemSuite {
    /// Every kind of failure has its exit code and says one line.
    struct FailureTests {
        @Test("what is wrong with the request has its own exit code and one line")
        func refusals() async throws {
            let deployment = try await Deployment()
            let wrongKey = try await deployment.ask("echo", prompt: "x", key: "slc_wrong")
            #expect(wrongKey.status == 11)
            let wrongModel = try await deployment.ask("nobody-has-this", prompt: "x")
            #expect(wrongModel.status == 12)
            let late = try await deployment.ask("demo", ["--deadline-ms", "400"], prompt: "x")
            #expect(late.status == 16)
            for result in [wrongKey, wrongModel, late] {
                #expect(result.errors.hasPrefix("sluice: "))
                #expect(result.errors.split(separator: "\n").count == 1, "\(result.errors)")
            }
            let noKey = try await Program(
                "sluice",
                [
                    "ask", "--broker", deployment.broker, "--ca", deployment.authority, "--model",
                    "echo", "x",
                ]
            ).finish()
            #expect(noKey.status == 64)
        }

        @Test("no broker, or one of another authority, is exit code 10")
        func notConnected() async throws {
            let deployment = try await Deployment()
            let other = FileManager.default.temporaryDirectory
                .appendingPathComponent("sluice-certs-" + UUID().uuidString)
            defer { try? FileManager.default.removeItem(at: other) }
            let made = try await Program("sluice", ["certs", "--out", other.path]).finish()
            #expect(made.status == 0, "\(made.errors)")
            let fixed = ["ask", "--key", deployment.clientKey, "--model", "echo"]
            let otherAuthority = try await Program(
                "sluice",
                fixed + [
                    "--broker", deployment.broker, "--ca",
                    other.appendingPathComponent("ca.pem").path, "x",
                ]
            ).finish()
            #expect(otherAuthority.status == 10)
            // Port 1 is nobody's.
            let nobody = try await Program(
                "sluice", fixed + ["--broker", "127.0.0.1:1", "--ca", deployment.authority, "x"]
            ).finish()
            #expect(nobody.status == 10)
            #expect(nobody.errors.split(separator: "\n").count == 1, "\(nobody.errors)")
        }

        @Test("Ctrl-C is exit code 130, and the worker stops")
        func cancel() async throws {
            let deployment = try await Deployment()
            let program = try deployment.startAsk("demo")
            try await until("the first bytes") { !program.output.isEmpty }
            program.send(SIGINT)
            let result = try await program.finish()
            #expect(result.status == 130)
            try await until("the worker to say so") {
                deployment.logLines.contains { $0.text("event") == "cancelled" }
            }
            let record = try await deployment.awaitRecords(1)[0]
            #expect(record.text("status") == "cancelled")
        }

        @Test("a supplier lost after its first token is exit code 17, with exact usage on record")
        func supplierLostLate() async throws {
            let deployment = try await Deployment()
            let program = try deployment.startAsk("demo", ["--json"])
            try await until("some chunks") { program.objects.count >= 5 }
            kill(deployment.pid("worker"), SIGKILL)
            let result = try await program.finish()
            #expect(result.status == 17, "\(result.errors)")
            let received = result.objects.dropLast().compactMap { $0.number("tokens") }
                .reduce(0, +)
            let record = try await deployment.awaitRecords(1)[0]
            #expect(record.text("status") == "supplier_lost")
            #expect(record.number("outputTokens") == received)
        }

        @Test("a supplier lost before its first token is not noticed: another one answers")
        func supplierLostEarly() async throws {
            let deployment = try await Deployment(slots: 1)
            // The only worker stands still, with the task in its only slot.
            kill(deployment.pid("worker"), SIGSTOP)
            let program = try deployment.startAsk("echo", input: Data("still here".utf8))
            try await deployment.awaitAccepted(1)
            let issued = try await Program(
                "sluice", ["key", "issue", "--data", deployment.data.path, "--supplier"]
            ).finish()
            let token = try #require(issued.objects.first?.text("secret"))
            let second = try Program(
                "sluice-worker",
                [
                    "--broker", deployment.broker, "--ca", deployment.authority, "--token", token,
                    "--engine", "echo", "--slots", "4",
                ])
            // Only the second worker can answer this: the broker knows its offer.
            #expect(try await deployment.ask("echo", prompt: "who").text == "who")
            kill(deployment.pid("worker"), SIGKILL)
            let result = try await program.finish()
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.text == "still here")
            let records = try await deployment.awaitRecords(2)
            #expect(records.allSatisfy { $0.text("status") == "completed" })
            // In which order is not said of tasks that end within a tenth of a second.
            #expect(records.compactMap { $0.number("dispatches") }.sorted() == [1, 2])
            second.send(SIGTERM)
            _ = try await second.finish()
        }

        @Test("a revoked key is refused")
        func revokedKey() async throws {
            let deployment = try await Deployment()
            let issued = try await Program(
                "sluice", ["key", "issue", "--data", deployment.data.path]
            ).finish()
            let key = try #require(issued.objects.first)
            let secret = try #require(key.text("secret"))
            let prefix = try #require(key.text("prefix"))
            var status: Int32 = -1
            for _ in 0..<100 where status != 0 {
                status = try await deployment.ask("echo", prompt: "x", key: secret).status
            }
            #expect(status == 0)
            let revoked = try await Program(
                "sluice", ["key", "revoke", "--data", deployment.data.path, prefix]
            ).finish()
            #expect(revoked.status == 0, "\(revoked.errors)")
            for _ in 0..<100 where status != 11 {
                status = try await deployment.ask("echo", prompt: "x", key: secret).status
            }
            #expect(status == 11)
        }
    }
}
