import Foundation
import Testing

extension SystemSuite {
    /// What an operator does with accounts and money at the command line.
    struct MoneyCommandTests {
        private let data = FileManager.default.temporaryDirectory
            .appendingPathComponent("sluice-data-" + UUID().uuidString)

        private func sluice(_ words: String) async throws -> ProgramResult {
            let arguments = words.split(separator: " ").map(String.init)
            return try await Program("sluice", arguments + ["--data", data.path]).finish()
        }

        /// The last object that a command printed; it must have succeeded.
        private func object(_ words: String) async throws -> JSONObject {
            let result = try await sluice(words + " --json")
            #expect(result.status == 0, "\(words): \(result.errors)")
            return try #require(result.objects.last, "\(words)")
        }

        @Test("money comes, goes and adds up; the same movement twice is one")
        func movements() async throws {
            defer { try? FileManager.default.removeItem(at: data) }
            let account = try await object("account create alice")
            #expect(account.texts("kinds") == ["consumer"])
            _ = try await object("wallet topup alice --usd 10 --reference p1")
            let again = try await object("wallet topup alice --usd 10 --reference p1")
            #expect(again.number("balanceMicroUSD") == 10_000_000)
            _ = try await object("wallet refund alice --usd 1.000001 --reference r1")
            let adjusted = try await object("wallet adjust alice --usd=-0.5 --reference a1")
            #expect(adjusted.number("availableMicroUSD") == 8_499_999)
            _ = try await object("wallet chargeback alice --usd 10 --reference c1")
            let shown = try await object("account show alice")
            #expect(shown.number("balanceMicroUSD") == 0)
            let check = try await object("ledger check")
            #expect(check.number("sumMicroUSD") == 0)
            #expect(check.number("negativeBalances") == 0)
            #expect(check.number("postings") == 9)
        }

        @Test("a refusal says what was wrong and what to do next, in one line")
        func refusals() async throws {
            defer { try? FileManager.default.removeItem(at: data) }
            #expect(try await sluice("account list").errors.contains("account create"))
            #expect(!FileManager.default.fileExists(atPath: data.path))
            _ = try await object("account create alice")
            _ = try await object("wallet topup alice --usd 1 --reference p1")
            for (words, expected) in [
                ("account create alice", "another label"),
                ("account show carol", "account list"),
                ("wallet refund alice --usd 2 --reference r", "take less"),
                ("wallet topup alice --usd 2 --reference p1", "its own"),
                ("wallet topup alice --usd 0 --reference p2", "above 0"),
                ("price remove m", "price list"),
                ("key revoke slc_nobody", "key list"),
                ("supplier payout paid 1", "payout list"),
                ("supplier payout request alice --usd 1 --key k", "ask for less"),
            ] {
                let result = try await sluice(words)
                #expect(result.status == 1, "\(words)")
                #expect(result.errors.contains(expected), "\(words): \(result.errors)")
                #expect(result.errors.split(separator: "\n").count == 1, "\(words)")
            }
            for words in [
                "price fee 10001", "wallet topup alice --usd 0.0000001 --reference p",
                "wallet topup alice --usd 9223372036855 --reference p",
                "wallet topup alice --usd 1e3 --reference p", "key issue --operation x",
                "ledger check --store other.sqlite",
            ] {
                #expect(try await sluice(words).status == 64, "\(words)")
            }
        }

        @Test("prices, fee, keys and suspension are listed as they were set")
        func settings() async throws {
            defer { try? FileManager.default.removeItem(at: data) }
            _ = try await object("price set m --input 5 --output 7 --from 2030-01-01T00:00:00Z")
            let price = try await object("price list")
            #expect(price.number("cached") == 5)
            #expect(price.number("reasoning") == 7)
            #expect(price.number("effectiveFromMs") == 1_893_456_000_000)
            #expect(try await object("price fee 250").number("basisPoints") == 250)
            _ = try await object(
                "key issue --account alice --operation chat --operation image "
                    + "--concurrent-tasks 4 --tokens-per-minute 9")
            let key = try await object("key list")
            #expect(key.texts("operations") == ["chat", "image"])
            #expect(key.number("concurrentTasks") == 4)
            #expect(key.number("tokensPerMinute") == 9)
            _ = try await object("account suspend alice")
            #expect(try await object("account list").number("suspended") == 1)
            #expect(try await object("account resume alice").number("suspended") == 0)
        }

        @Test("in a development set-up the consumer pays what supplier and platform get")
        func development() async throws {
            let deployment = try await Deployment()
            #expect(
                try await deployment.ask("demo", ["--max-tokens", "60"], prompt: "x").status == 0)
            let record = try #require(try await deployment.awaitRecords(1).first)
            let cost = try #require(record.number("consumerCostMicroUSD"))
            let earning = try #require(record.number("supplierEarningMicroUSD"))
            let fee = try #require(record.number("platformFeeMicroUSD"))
            #expect(cost == earning + fee)
            #expect(earning > 0)
            #expect(fee > 0)
            func object(_ words: String) async throws -> JSONObject {
                let arguments = words.split(separator: " ").map(String.init)
                let result = try await Program(
                    "sluice", arguments + ["--data", deployment.data.path, "--json"]
                ).finish()
                #expect(result.status == 0, "\(words): \(result.errors)")
                return try #require(result.objects.last)
            }
            let wallet = try await object("wallet show client")
            #expect(wallet.number("balanceMicroUSD") == 10_000_000 - cost)
            #expect(try await object("supplier list").number("earnedMicroUSD") == earning)
            let statement = try await object("ledger statement client")
            #expect(statement.number("totalMicroUSD") == cost)
            let check = try await object("ledger check")
            #expect(check.number("sumMicroUSD") == 0)
            #expect(check.number("unsettled") == 0)
            #expect(check.number("tasks") == 1)
        }
    }
}
