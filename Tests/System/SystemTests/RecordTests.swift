import Development
import Foundation
import Testing

extension SystemSuite {
    /// What the deployment remembers of a task, and what it does not.
    struct RecordTests {
        @Test("every accepted task has one record with every field")
        func everyField() async throws {
            let deployment = try await Deployment()
            let answer = try await deployment.ask("echo", ["--json"], prompt: "one two three")
            let task = try #require(answer.objects.last?.text("taskID"))
            let records = try await deployment.awaitRecords(1)
            #expect(records.count == 1)
            let record = records[0]
            #expect(record.text("taskID") == task)
            let accepted = try #require(record.text("acceptedAt"))
            #expect(accepted.wholeMatch(of: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z/) != nil)
            #expect(record.text("model") == "echo")
            #expect(record.number("inputTokens") == 3)
            #expect(record.number("outputTokens") == 3)
            #expect((record.number("ttftUs") ?? 0) > 0)
            let duration = try #require(record.number("durationUs"))
            #expect(duration >= record.number("ttftUs") ?? 0)
            let cost = try #require(record.number("consumerCostMicroUSD"))
            let earning = try #require(record.number("supplierEarningMicroUSD"))
            let fee = try #require(record.number("platformFeeMicroUSD"))
            #expect(cost == earning + fee)
            #expect(record.text("supplyType") == "community")
            #expect(record.text("status") == "completed")
        }

        @Test("records can be read after everything has ended, and the next run adds to them")
        func afterTheEnd() async throws {
            let data = FileManager.default.temporaryDirectory
                .appendingPathComponent("sluice-data-" + UUID().uuidString)
            defer { try? FileManager.default.removeItem(at: data) }
            var keys: Set<String> = []
            for run in 1...2 {
                let deployment = try await Deployment(on: data)
                keys.insert(deployment.clientKey)
                #expect(try await deployment.ask("echo", prompt: "x").status == 0)
                #expect(try await deployment.stop() == 0)
                #expect(try await deployment.records().count == run)
            }
            #expect(keys.count == 1, "the second run has the keys of the first")
        }

        @Test("a sidecar that stands still changes nothing for streams; its records come later")
        func sidecarStopped() async throws {
            let deployment = try await Deployment()
            #expect(try await deployment.ask("echo", prompt: "x").status == 0)
            _ = try await deployment.awaitRecords(1)
            kill(deployment.pid("sidecar"), SIGSTOP)
            for _ in 0..<10 {
                #expect(try await deployment.ask("echo", prompt: "x").status == 0)
            }
            #expect(try await deployment.records().count == 1)
            kill(deployment.pid("sidecar"), SIGCONT)
            #expect(try await deployment.awaitRecords(11).count == 11)
        }

        @Test("after kill -9 of the broker in mid-stream, accepted = final, and it serves again")
        func brokerKilled() async throws {
            let deployment = try await Deployment()
            let programs = try (0..<6).map { _ in try deployment.startAsk("demo", ["--json"]) }
            for program in programs {
                try await until("the first chunks") { program.objects.count >= 3 }
            }
            kill(deployment.pid("broker"), SIGKILL)
            var received: [Int] = []
            for program in programs {
                let result = try await program.finish()
                #expect(result.status == 10)
                received.append(
                    result.objects.dropLast().compactMap { $0.number("tokens") }.reduce(0, +))
            }
            try await until("the restart") { deployment.restartCount("broker") == 1 }
            let counts = try await deployment.awaitSettled(atLeast: 6)
            #expect(counts.accepted == 6)
            let records = try await deployment.records()
            #expect(records.allSatisfy { $0.text("status") == "broker_lost" })
            // What was sealed is billed; what the client read cannot be more.
            let billed = records.compactMap { $0.number("outputTokens") }
            #expect(billed.count == 6)
            #expect(billed.reduce(0, +) >= received.reduce(0, +))
            var status: Int32 = -1
            for _ in 0..<100 where status != 0 {
                status = try await deployment.ask("echo", prompt: "again").status
                if status != 0 { try await Task.sleep(for: .milliseconds(100)) }
            }
            #expect(status == 0)
        }

        @Test("a broker that is asked to end lets its streams end")
        func drain() async throws {
            let deployment = try await Deployment()
            let program = try deployment.startAsk("demo", ["--max-tokens", "80", "--json"])
            try await until("the first chunks") { program.objects.count >= 2 }
            kill(deployment.pid("broker"), SIGTERM)
            let result = try await program.finish()
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.objects.last?.number("outputTokens") == 80)
        }

        @Test("sluice drain ends the broker after its streams; its task is explained from records")
        func drainCommand() async throws {
            let deployment = try await Deployment()
            let data = ["--data", deployment.data.path, "--json"]
            let asking = try deployment.startAsk("demo", ["--max-tokens", "80", "--json"])
            try await until("the first chunks") { asking.objects.count >= 2 }
            let broker = Int(deployment.pid("broker"))
            let drained = try await Program("sluice", ["drain"] + data).finish()
            #expect(drained.status == 0, "\(drained.errors)")
            #expect(drained.objects.first?.text("state") == "ended")
            #expect(drained.objects.first?.number("pid") == broker)
            #expect(try await asking.finish().status == 0)
            _ = try await deployment.awaitSettled(atLeast: 1)
            let record = try #require(
                try await Program("sluice", ["records"] + data).finish().objects.last)
            let task = try #require(record.text("taskID"))
            let explained = try await Program("sluice", ["task", task] + data).finish()
            #expect(explained.objects.first?.text("status") == "completed")
            #expect(explained.objects.first?.number("outputTokens") == 80)
            #expect(explained.objects.first?.text("winReason") == "onlyFree")
            let usage = try await Program("sluice", ["usage", "--by", "account"] + data).finish()
            #expect(usage.objects.first?.number("outputTokens") == 80)
            let unknown = String(repeating: "0", count: 32)
            let missing = try await Program("sluice", ["task", unknown] + data).finish()
            #expect(missing.status == 1 && missing.errors.contains("no record knows"))
        }

        @Test("prompt, answer and key are in no file, log or crash output")
        func canary() async throws {
            let deployment = try await Deployment()
            let canary = (0..<32).map { _ in
                String(UInt8.random(in: 0...255), radix: 16)
            }.joined()
            #expect(try await deployment.ask("echo", prompt: canary).text == canary)
            let cut = try deployment.startAsk("demo", input: Data("say \(canary)".utf8))
            try await until("the first bytes") { !cut.output.isEmpty }
            // A crash in the middle of a stream, as a fault of its own would cause it.
            kill(deployment.pid("broker"), SIGSEGV)
            _ = try await cut.finish()
            try await until("the restart") { deployment.restartCount("broker") == 1 }
            _ = try await deployment.awaitSettled(atLeast: 2)

            let run = try DevelopmentHome(deployment.data.path).runDirectory.path
            let places = [deployment.data, URL(fileURLWithPath: run)]
            let control = deployment.data.appendingPathComponent("control")
            try Data("xx\(canary)yy".utf8).write(to: control)
            #expect(Self.files(in: places, with: canary) == [control.lastPathComponent])
            for secret in [canary, deployment.clientKey] {
                #expect(!deployment.dev.errors.contains(secret))
                // As a backtrace shows memory: bytes in hexadecimal, a few of them in a row.
                let bytes = secret.utf8.map {
                    ($0 < 16 ? "0" : "") + String($0, radix: 16)
                }
                for first in 0...bytes.count - 8 {
                    let part = bytes[first..<first + 8].joined(separator: " ")
                    #expect(!deployment.dev.errors.contains(part))
                }
            }
            for name in ["sluice.sqlite", "sluice.sqlite-wal"] {
                let file = deployment.data.appendingPathComponent(name)
                let bytes = (try? Data(contentsOf: file)) ?? Data()
                #expect(bytes.range(of: Data(deployment.clientKey.utf8)) == nil)
            }
        }

        /// Names of the files that hold `text`.
        private static func files(in places: [URL], with text: String) -> [String] {
            places.flatMap { place in
                let walk = FileManager.default.enumerator(
                    at: place, includingPropertiesForKeys: nil)
                var found: [String] = []
                while let file = walk?.nextObject() as? URL {
                    guard let bytes = try? Data(contentsOf: file, options: .mappedIfSafe) else {
                        continue
                    }
                    if bytes.range(of: Data(text.utf8)) != nil {
                        found.append(file.lastPathComponent)
                    }
                }
                return found
            }
        }
    }
}
