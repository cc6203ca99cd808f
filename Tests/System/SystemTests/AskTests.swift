import Foundation
import Testing

extension SystemSuite {
    /// What a client gets for its prompt.
    struct AskTests {
        @Test("the answer of echo is the prompt, byte for byte, with no newline added")
        func echo() async throws {
            let deployment = try await Deployment()
            let prompts = [
                "hello", "  two  spaces\n\n\tand a tab \n", "Grüße, 世界 🌊 e\u{301}",
                String(repeating: "a word and another 🌊 ", count: 9_000),
            ]
            for prompt in prompts {
                let result = try await deployment.ask("echo", prompt: prompt)
                #expect(result.status == 0, "\(result.errors)")
                #expect(result.output == Data(prompt.utf8))
                #expect(result.errors.isEmpty)
            }
        }

        @Test("streams run side by side: 12 answers of demo come whole on 12 connections")
        func sideBySide() async throws {
            let deployment = try await Deployment()
            let one = try await deployment.ask("demo", ["--max-tokens", "60"], prompt: "x")
            #expect(one.status == 0)
            #expect(!one.output.isEmpty)
            let programs = try (0..<12).map { number in
                try deployment.startAsk(
                    "demo", ["--max-tokens", "60"], input: Data("question \(number)".utf8))
            }
            for program in programs {
                let result = try await program.finish()
                #expect(result.status == 0, "\(result.errors)")
                #expect(result.output == one.output)
            }
        }

        @Test("the answer streams: its first bytes are there before its last token is made")
        func streams() async throws {
            let deployment = try await Deployment()
            let program = try deployment.startAsk("demo", ["--max-tokens", "80"])
            try await until("the first bytes") { !program.output.isEmpty }
            let early = program.output.count
            let result = try await program.finish()
            #expect(result.status == 0)
            #expect(early < result.output.count)
        }

        @Test("--json prints the chunks, then one object with usage, cost and status")
        func jsonLines() async throws {
            let deployment = try await Deployment()
            let prompt = "one two three four five"
            let result = try await deployment.ask("echo", ["--json"], prompt: prompt)
            #expect(result.status == 0)
            let objects = result.objects
            let chunks = objects.dropLast()
            let last = try #require(objects.last)
            #expect(chunks.compactMap { $0.text("text") }.joined() == prompt)
            #expect(chunks.compactMap { $0.number("tokens") }.reduce(0, +) == 5)
            #expect(last.text("status") == "completed")
            #expect(last.text("taskID")?.count == 32)
            #expect(last.number("inputTokens") == 5)
            #expect(last.number("outputTokens") == 5)
            #expect((last.number("costMicroUSD") ?? 0) > 0)
            #expect(last.text("finishReason") == "stop")
        }

        @Test("--max-tokens ends the answer there, with finish reason length")
        func maxTokens() async throws {
            let deployment = try await Deployment()
            let result = try await deployment.ask(
                "echo", ["--max-tokens", "3", "--json"], prompt: "one two three four")
            let last = try #require(result.objects.last)
            #expect(last.number("outputTokens") == 3)
            #expect(last.text("finishReason") == "length")
        }

        @Test("the key may come from a file or the environment")
        func keySources() async throws {
            let deployment = try await Deployment()
            let fixed = [
                "ask", "--broker", deployment.broker, "--ca", deployment.authority,
                "--model", "echo",
            ]
            let keyFile = deployment.data.appendingPathComponent("client.key").path
            let fromFile = try await Program("sluice", fixed + ["--key-file", keyFile, "hi"])
                .finish()
            #expect(fromFile.text == "hi")
            let fromEnvironment = try await Program(
                "sluice", fixed + ["hi"], environment: ["SLUICE_KEY": deployment.clientKey]
            ).finish()
            #expect(fromEnvironment.text == "hi")
        }
    }
}
