import Foundation
import Testing

extension SystemSuite {
    /// `sluice bench` as performance engineers use it, with few seconds.
    @Suite struct BenchTests {
        private let folder = FileManager.default.temporaryDirectory
            .appendingPathComponent("sluice-bench-test-" + UUID().uuidString)

        private func bench(_ arguments: [String]) async throws -> ProgramResult {
            try FileManager.default.createDirectory(
                at: folder, withIntermediateDirectories: true)
            return try await Program(
                "sluice",
                ["bench", "--backend", Deployment.backend] + arguments
            ).finish(within: 90)
        }

        private func json(_ name: String) throws -> [String: Any] {
            let data = try Data(contentsOf: folder.appendingPathComponent(name))
            return try #require(JSONSerialization.jsonObject(with: data) as? [String: Any])
        }

        @Test func brokerAndBareRelayAreMeasuredInPairs() async throws {
            defer { try? FileManager.default.removeItem(at: folder) }
            // A sidecar that comes a sixth of a second late finds the journal full, and tasks are
            // refused, as they should be: that run shows nothing, says so, and is made again.
            var result: ProgramResult
            var attempts = 0
            repeat {
                attempts += 1
                result = try await bench([
                    "--workload", "W3", "--quick", "--against", "bare", "--pairs", "2",
                    "--seconds", "0.5", "--warm-up", "0.2",
                    "--json", folder.appendingPathComponent("w3.json").path,
                    "--hdr", folder.appendingPathComponent("hdr").path,
                ])
            } while "\(result.errors) \(result.text)".contains("badEnd") && attempts < 5
            #expect(result.status == 0, "\(result.errors) \(result.text)")
            let report = try json("w3.json")
            #expect(report["loop"] as? String == "closed")
            let sides = try #require(report["sides"] as? [[String: Any]])
            #expect(sides.map { $0["target"] as? String } == ["sluice", "bare"])
            for side in sides {
                #expect(side["workload"] as? String == "W3")
                #expect(side["errors"] as? Int == 0)
                #expect(side["lost"] as? Int == 0)
                for name in [
                    "cpuUsPerToken", "cpuUsPerTask", "tokensPerSecond", "tasksPerSecond",
                    "rssBytes", "generatorUtilisation",
                ] {
                    #expect(try #require(side[name] as? Double) > 0, "\(name)")
                }
                // One token a task: no gaps, which is said and not left out.
                for name in ["ttftUs", "hopUs", "tokenGapUs"] {
                    let latency = try #require(side[name] as? [String: Any])
                    #expect(Set(latency.keys).isSuperset(of: ["p50", "p99", "p999"]))
                }
                #expect(side["syscallsPerToken"] is NSNull)
            }
            let processes = try #require(sides[0]["processes"] as? [[String: Any]])
            #expect(processes.map { $0["name"] as? String } == ["broker", "sidecar"])
            let ratios = try #require(report["ratios"] as? [String: [String: Any]])
            let ratio = try #require(ratios["cpuUsPerTask"])
            #expect((ratio["pairs"] as? [Double])?.count == 2)
            let median = try #require(ratio["median"] as? Double)
            let (low, high) = (ratio["low"] as? Double ?? 0, ratio["high"] as? Double ?? 0)
            #expect(low <= median && median <= high)
            let raw = try FileManager.default.contentsOfDirectory(
                atPath: folder.appendingPathComponent("hdr").path)
            #expect(raw.count(where: { $0.contains("-ttft") && $0.hasSuffix(".hgrm") }) == 4)
        }

        @Test func pacedStreamsWithSlowReadersAndChurnAreServedWithoutLoss() async throws {
            defer { try? FileManager.default.removeItem(at: folder) }
            let result = try await bench([
                "--workload", "W4", "--pairs", "1", "--seconds", "1", "--warm-up", "0.5",
                "--slow-readers", "2", "--churn", "20", "--idle", "50",
                "--json", folder.appendingPathComponent("w4.json").path,
            ])
            #expect(result.status == 0, "\(result.errors) \(result.text)")
            let report = try json("w4.json")
            #expect(report["loop"] as? String == "open")
            let sides = try #require(report["sides"] as? [[String: Any]])
            let groups = try #require(sides.first?["groups"] as? [[String: Any]])
            #expect(groups.map { $0["name"] as? String } == ["streams", "slow", "idle", "churn"])
            for group in groups {
                let tokens = try #require(group["tokens"] as? Int)
                #expect((tokens > 0) == (group["name"] as? String != "idle"))
            }
            #expect(sides.first?["rssBytesPerConnection"] is Double)
        }

        @Test func aTargetThatIsNotInstalledIsNamedWithWhatToDo() async throws {
            defer { try? FileManager.default.removeItem(at: folder) }
            let result = try await bench([
                "--target", "bare", "--workload", "W3", "--programs", folder.path,
                "--peers", folder.path,
            ])
            #expect(result.status == 21)
            #expect(result.errors.contains("bare-relay"))
            #expect(result.errors.contains("Benchmarks/get bare"))
        }
    }
}
