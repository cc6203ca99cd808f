import Development
import Foundation
import SluiceBrokerCore
import Testing

extension SystemSuite {
    /// How `sluice dev` keeps its children, and what the broker holds against a bad peer.
    struct SupervisionTests {
        @Test("the ready line says what a client and a supplier need")
        func readyLine() async throws {
            let deployment = try await Deployment()
            #expect(deployment.broker.hasPrefix("127.0.0.1:"))
            #expect(deployment.ready.texts("models") == ["demo", "echo"])
            #expect(
                deployment.ready.object("pids").names == ["broker", "sidecar", "worker", "gateway"])
            #expect(deployment.ready.text("http")?.hasPrefix("http://127.0.0.1:") == true)
            let secrets = deployment.data.appendingPathComponent("dev.json").path
            let mode = try FileManager.default.attributesOfItem(atPath: secrets)[.posixPermissions]
            #expect((mode as? NSNumber)?.intValue == 0o600)
        }

        @Test("a second sluice dev on the same directory says so and ends")
        func oneAtATime() async throws {
            let deployment = try await Deployment()
            let second = try await Program("sluice", ["dev", "--data", deployment.data.path])
                .finish()
            #expect(second.status == 1)
            #expect(second.errors.contains("another `sluice dev` runs on"))
            #expect(second.output.isEmpty)
        }

        @Test("a child that dies is started again, the broker on the same port")
        func restarts() async throws {
            let deployment = try await Deployment()
            for name in ["gateway", "worker", "sidecar", "broker"] {
                let before = deployment.pid(name)
                kill(before, SIGKILL)
                try await until("the \(name)'s restart") { deployment.restartCount(name) == 1 }
                #expect(deployment.pid(name) != before)
            }
            var status: Int32 = -1
            for _ in 0..<100 where status != 0 {
                status = try await deployment.ask("echo", prompt: "x").status
                if status != 0 { try await Task.sleep(for: .milliseconds(100)) }
            }
            #expect(status == 0)
        }

        @Test("at a clean end all children are gone, and so is the run directory")
        func cleanEnd() async throws {
            let deployment = try await Deployment()
            let run = try DevelopmentHome(deployment.data.path).runDirectory.path
            #expect(FileManager.default.fileExists(atPath: run))
            #expect(try await deployment.ask("echo", prompt: "x").status == 0)
            let pids = ["broker", "sidecar", "worker", "gateway"].map { deployment.pid($0) }
            #expect(try await deployment.stop() == 0)
            for pid in pids { #expect(kill(pid, 0) == -1) }
            #expect(!FileManager.default.fileExists(atPath: run))
        }

        @Test("children end when sluice dev is killed")
        func killedParent() async throws {
            let deployment = try await Deployment()
            let pids = ["broker", "sidecar", "worker", "gateway"].map { deployment.pid($0) }
            deployment.dev.send(SIGKILL)
            try await until("the children's end", 60) {
                pids.allSatisfy { kill($0, 0) == -1 || Self.isZombie($0) }
            }
            let next = try await Deployment(on: deployment.data)
            #expect(try await next.ask("echo", prompt: "x").status == 0)
            #expect(try await next.stop() == 0)
        }

        @Test("readers that stand still hold up nobody else, and the broker's memory is bounded")
        func stalledReaders() async throws {
            let deployment = try await Deployment(slots: 32)
            let limits = BrokerLimits()
            let prompt = Data(String(repeating: "0123456 ", count: 1 << 18).utf8)
            let before = try Self.residentBytes(of: deployment.pid("broker"))
            // A pipe that nobody reads: ask stops pulling, and credit stops with it.
            let pipes = (0..<12).map { _ in Pipe() }
            let stalled = try pipes.map { pipe in
                try deployment.startAsk("echo", input: prompt, output: pipe.fileHandleForWriting)
            }
            try await Task.sleep(for: .seconds(2))
            for _ in 0..<5 {
                let result = try await deployment.ask("echo", prompt: "I am quick")
                #expect(result.text == "I am quick", "\(result.errors)")
            }
            let grown = try Self.residentBytes(of: deployment.pid("broker")) - before
            // Per stream its body, its reserve and a chunk; per connection control and TLS.
            let perTask =
                prompt.count + Int(64 * 1_024) + BrokerLimits.chunkBytes
                + limits.controlBytesMax + 64 * 1_024
            #expect(grown < 12 * perTask + (8 << 20), "grew by \(grown) bytes")
            for program in stalled {
                program.send(SIGKILL)
            }
        }

        private static func isZombie(_ pid: Int32) -> Bool {
            let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)
            return text?.split(separator: ")").last?.hasPrefix(" Z") ?? true
        }

        private static func residentBytes(of pid: Int32) throws -> Int {
            let text = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
            let line = text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
            let number = line?.split(separator: " ").compactMap { Int($0) }.first
            return try #require(number) * 1_024
        }
    }
}
