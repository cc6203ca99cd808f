import ArgumentParser
import SluiceSupplier
import SluiceWire
import Worker

/// `sluice-worker earnings`
struct EarningsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "earnings",
        abstract: "Show what was done and earned, by model.",
        discussion: """
            Asks each broker how this supplier stands there, over all its workers, since the \
            broker began to count, and sums. Runs beside a worker and takes no tasks. What is \
            paid is what the operator's ledger says.
            """)

    @OptionGroup var brokers: BrokerOptions

    @Flag(help: "Print one JSON object.")
    var json = false

    func run() async throws {
        let standings = try await Standing.ask(brokers)
        for line in json ? [standings.json] : standings.earnings { Output.line(line) }
    }
}

/// `sluice-worker why-idle`
struct WhyIdleCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "why-idle",
        abstract: "Show which matches others got, and why.",
        discussion: """
            Asks each broker how this supplier stands there: whether its workers are connected and \
            offer something, how many tasks of its models came to it, and for each that went \
            elsewhere the reason. Where many suppliers compete the numbers are estimates.
            """)

    @OptionGroup var brokers: BrokerOptions

    @Flag(help: "Print one JSON object.")
    var json = false

    func run() async throws {
        let standings = try await Standing.ask(brokers)
        for line in json ? [standings.json] : standings.whyIdle { Output.line(line) }
    }
}

/// Asks all brokers.
private enum Standing {
    /// Says what is wrong with a broker that did not answer; throws where none did.
    static func ask(_ options: BrokerOptions) async throws -> Standings {
        let settings = try options.settings()
        let credential = try options.credential(settings)
        var standings = Standings()
        for broker in try BrokerOptions.brokers(settings) {
            do throws(ReportError) {
                let report = try await SluiceSupplier.report(
                    from: broker, credential: credential, trust: BrokerOptions.trust(settings))
                standings.add(report, from: broker)
            } catch {
                Output.note("\(broker): \(words(for: error))")
            }
        }
        guard standings.brokers > 0 else { throw ExitCode(1) }
        return standings
    }

    private static func words(for error: ReportError) -> String {
        switch error {
        case .refused(.unauthenticated):
            "the token or certificate is not known here; ask the operator for one"
        case .refused(.forbidden): "this is a client's key; a supplier token is needed"
        case .refused(let code): "refused with code \(code.rawValue); try again later"
        case .notTold: "it does not tell how its suppliers stand; the operator must update it"
        case .transport:
            "no connection; sluice-worker doctor with the same options says why"
        }
    }
}
