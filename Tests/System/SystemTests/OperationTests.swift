import Foundation
import SluiceClient
import Synchronization
import Testing

/// Clients of the SDK that never rest. What they see that is not a whole answer is kept.
private final class SteadyLoad: Sendable {
    private let isOver = Atomic(false)
    private let answers = Atomic(0)
    private let failures = Mutex<[String]>([])
    let connections = Atomic(0)

    var answerCount: Int { answers.load(ordering: .relaxed) }
    var errors: [String] { failures.withLock { $0 } }

    func stop() { isOver.store(true, ordering: .relaxed) }

    /// `clients` connections of `streams` streams each, until `stop`.
    func run(
        _ operated: (port: UInt16, key: String, authority: String), clients: Int, streams: Int,
        words: Int
    ) async throws {
        let configuration = SluiceClient.Configuration(
            brokers: ["127.0.0.1:\(operated.port)"], key: operated.key,
            trust: .file(operated.authority),
            onEvent: {
                if case .connected = $0 { self.connections.add(1, ordering: .relaxed) }
            })
        try await withThrowingTaskGroup { group in
            for client in 0..<clients {
                group.addTask {
                    try await SluiceClient.withClient(configuration) { sluice in
                        await withDiscardingTaskGroup { group in
                            for stream in 0..<streams {
                                group.addTask {
                                    while !self.isOver.load(ordering: .relaxed) {
                                        await self.ask(sluice, "c\(client)s\(stream)", words)
                                    }
                                }
                            }
                        }
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    /// One answer, which must be its prompt.
    func ask(_ sluice: SluiceClient, _ salt: String, _ words: Int) async {
        let prompt = (0..<words).map { "\(salt)w\($0)" }.joined(separator: " ")
        var received = ""
        do {
            let answer = sluice.stream(
                .chat("echo", prompt) {
                    $0.deadline = .seconds(60)
                    $0.maxOutputTokens = 10_000
                })
            for try await chunk in answer { received += chunk.text ?? "" }
            let usage = try await answer.completion().usage
            guard received == prompt, Int(usage.outputTokens) == words else {
                return note("an answer lost or changed bytes, \(usage.outputTokens) tokens")
            }
            answers.add(1, ordering: .relaxed)
        } catch {
            note("\(error)")
        }
    }

    private func note(_ failure: String) {
        failures.withLock { $0.append(failure) }
    }
}

extension SystemSuite {
    /// What an operator does to a broker at work.
    struct OperationTests {
        @Test(
            "a broker follows another under load: no answer is lost, no error reaches a client",
            arguments: [
                (slots: 64, isSame: true), (slots: 64, isSame: false), (slots: 4, isSame: true),
            ])
        func upgrade(_ form: (slots: Int, isSame: Bool)) async throws {
            let operated = try await OperatedBroker()
            let old = try await operated.startBroker(["--backend", Deployment.backend])
            try await operated.startWorker(tokensPerSecond: 100, slots: form.slots)
            let load = SteadyLoad()
            let place = (operated.port, operated.key, operated.authority)
            async let running: Void = load.run(place, clients: 4, streams: 3, words: 40)
            try await until("some answers") { load.answerCount >= 24 }

            // A long answer begins before and ends, on the old broker, after the new one serves.
            async let long: Void = SluiceClient.withClient(
                SluiceClient.Configuration(
                    brokers: ["127.0.0.1:\(place.0)"], key: place.1, trust: .file(place.2))
            ) { await load.ask($0, "long", 400) }
            try await Task.sleep(for: .milliseconds(500))

            let other = Deployment.backend == "epoll" ? "ring" : "epoll"
            let new = try await operated.startBroker(
                ["--backend", form.isSame ? Deployment.backend : other])
            kill(old.pid, SIGTERM)
            #expect(try await old.finish() == 0, "\(old.errors)")
            #expect(old.logged("draining") == 1)
            let before = load.answerCount
            try await until("answers of the new broker") { load.answerCount >= before + 24 }
            load.stop()
            try await running
            try await long
            #expect(load.errors.isEmpty, "\(load.errors.prefix(5)) of \(load.errors.count)")
            #expect(new.isRunning)
            #expect(try await operated.settledCount() >= load.answerCount)
            kill(new.pid, SIGTERM)
            #expect(try await new.finish() == 0)
        }

        @Test("a new certificate reaches new connections, and a running stream loses nothing")
        func reload() async throws {
            let operated = try await OperatedBroker()
            let broker = try await operated.startBroker(["--backend", Deployment.backend])
            try await operated.startWorker(tokensPerSecond: 100, slots: 8)
            let load = SteadyLoad()
            let place = (operated.port, operated.key, operated.authority)
            async let long: Void = SluiceClient.withClient(
                SluiceClient.Configuration(
                    brokers: ["127.0.0.1:\(place.0)"], key: place.1, trust: .file(place.2),
                    onEvent: {
                        if case .connected = $0 { load.connections.add(1, ordering: .relaxed) }
                    })
            ) { await load.ask($0, "long", 1_200) }
            try await until("the stream's connection") {
                load.connections.load(ordering: .relaxed) == 1
            }
            let first = try await operated.servedSerial()

            try await operated.replaceCertificate()
            #expect(try await operated.servedSerial() == first, "it waits for SIGHUP")
            kill(broker.pid, SIGHUP)
            try await until("the new certificate") { broker.logged("certificate_replaced") == 1 }
            let second = try await operated.servedSerial()
            #expect(second != first)

            try Data("no certificate".utf8).write(to: URL(fileURLWithPath: operated.certificate))
            kill(broker.pid, SIGHUP)
            try await until("the refusal") { broker.logged("certificate_refused") == 1 }
            for _ in 0..<4 { #expect(try await operated.servedSerial() == second) }
            #expect(load.answerCount == 0, "the stream runs across all of it")
            try await long
            #expect(load.errors.isEmpty, "\(load.errors)")
            #expect(load.answerCount == 1)
            #expect(load.connections.load(ordering: .relaxed) == 1, "on one connection")
            kill(broker.pid, SIGTERM)
            #expect(try await broker.finish() == 0)
        }
    }
}
