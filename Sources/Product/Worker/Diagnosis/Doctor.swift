import Foundation
package import SluiceSupplier
import SluiceTransport
package import SluiceWire

/// Looks at everything that stands between a worker and its first task, and says what is wrong and
/// what to do. Offers nothing, so no task can come.
package struct Doctor: Sendable {
    /// What it looks at; what is nil was not given.
    package struct Subject: Sendable {
        package var brokers: [String]
        package var trust: BrokerTrust
        /// Never printed.
        package var credential: BrokerCredential?
        package var source: WorkerConfiguration.Source?
        package var selection: ModelSelection
        package var slots: WorkerConfiguration.Slots
        /// What the models are to be offered for. A short answer is tried where that is text.
        package var operations: Set<TaskOperation>
        /// Descriptors that this process may have.
        package var descriptorsMax: Int

        /// Makes a subject.
        package init(
            brokers: [String], trust: BrokerTrust, credential: BrokerCredential?,
            source: WorkerConfiguration.Source?, selection: ModelSelection,
            slots: WorkerConfiguration.Slots, operations: Set<TaskOperation>, descriptorsMax: Int
        ) {
            self.brokers = brokers
            self.trust = trust
            self.credential = credential
            self.source = source
            self.selection = selection
            self.slots = slots
            self.operations = operations
            self.descriptorsMax = descriptorsMax
        }
    }

    private let subject: Subject
    private let say: @Sendable (DoctorCheck) -> Void

    /// Makes a doctor that says each check as it is done.
    package init(_ subject: Subject, say: @escaping @Sendable (DoctorCheck) -> Void) {
        self.subject = subject
        self.say = say
    }

    /// Looks at everything; what is wrong with one thing keeps it from none of the others.
    package func run() async {
        checkDescriptors()
        switch subject.source {
        case .upstream(let address): await check(address)
        case .builtIn(let engines): await check(engines)
        case nil: await sayWhatWasFound()
        }
        if subject.credential == nil {
            say(
                DoctorCheck(
                    "credential", .fail, "none is given",
                    expected: "a supplier token or a client certificate",
                    remedy: "ask the operator for one (sluice key issue --supplier) and give "
                        + "--token-file, or SLUICE_TOKEN in the environment"))
        }
        if subject.brokers.isEmpty {
            say(
                DoctorCheck(
                    "broker", .fail, "none is named", expected: "host:port of a broker",
                    remedy: "give --broker, or broker in the worker's section of the file"))
        }
        for broker in subject.brokers { await check(broker: broker) }
    }

    // MARK: This machine

    private func checkDescriptors() {
        // A task holds a connection to the upstream; one whose answer is over may linger.
        let needed = 2 * subject.slots.most + 64
        let found = "this process may have \(subject.descriptorsMax) descriptors"
        guard subject.descriptorsMax >= needed else {
            return say(
                DoctorCheck(
                    "descriptors", .warn, found, expected: "\(needed) for so many slots",
                    remedy: "raise the limit (ulimit -n, LimitNOFILE=), or offer fewer slots"))
        }
        say(DoctorCheck("descriptors", .ok, found))
    }

    // MARK: The engine

    private func sayWhatWasFound() async {
        let found = await UpstreamDiscovery.search()
        guard let first = found.first else {
            return say(
                DoctorCheck(
                    "upstream", .fail,
                    "none is given, and no engine answers on this machine at its usual port",
                    expected: "an OpenAI-compatible server",
                    remedy: "start one, or name its URL with --upstream"))
        }
        let names = found.map {
            "\($0.kind?.rawValue ?? "a server") at \($0.url) with \($0.models.count) models"
        }
        say(
            DoctorCheck(
                "upstream", .fail,
                "none is given; on this machine: "
                    + names.joined(separator: ", "), expected: "one that is named",
                remedy: "give --upstream \(first.url) --model \(first.models.first ?? "NAME")"))
    }

    private func check(_ engines: [BuiltInEngine]) async {
        let models: [OfferedModel]
        do throws(Worker.Fault) {
            models = try Worker.models(of: engines, selection: subject.selection)
        } catch {
            return say(
                DoctorCheck(
                    "models", .fail, "a --model names none of the engines",
                    expected: "names of --engine", remedy: "leave --model out"))
        }
        say(DoctorCheck("models", .ok, Self.list(models.map(\.name))))
        guard let first = models.first,
            let engine = engines.first(where: { $0.kind.rawValue == first.engineName })
        else { return }
        await measure(engine, model: first.name, isCold: false)
    }

    private func check(_ address: UpstreamAddress) async {
        let client = UpstreamClient(address, tasksMax: subject.slots.most)
        let loads = ModelLoads(client)
        let engine = UpstreamEngine(client, loads: loads)
        let models = checkList(await client.list(timeout: .seconds(10)), at: address.root)
        let answersText = !subject.operations.isDisjoint(with: [.chat, .completion])
        if answersText, let models, let first = models.first {
            engine.serve(models)
            await loads.recognise()
            let isInMemory = await loads.isInMemory(first.engineName)
            if isInMemory == false {
                say(
                    DoctorCheck(
                        "model", .warn, "\(first.engineName) is not in memory",
                        expected: "a model that answers at once",
                        remedy: "nothing must be done: a worker loads it and has no slots until "
                            + "then; to keep it loaded set OLLAMA_KEEP_ALIVE=-1 at the engine"))
            }
            await measure(engine, model: first.name, isCold: isInMemory == false)
        }
        await client.shutdown()
    }

    /// What would be offered; nil where nothing would.
    private func checkList(
        _ answer: UpstreamClient.ListAnswer, at url: String
    ) -> [OfferedModel]? {
        func fail(_ found: String, _ remedy: String) -> [OfferedModel]? {
            say(
                DoctorCheck(
                    "upstream", .fail, found, expected: "a model list at \(url)/v1/models",
                    remedy: remedy))
            return nil
        }
        switch answer {
        case .models(let listed):
            say(DoctorCheck("upstream", .ok, "\(url) answers and lists \(listed.count) models"))
            return checkSelection(listed)
        case .unsupported where !subject.selection.named.isEmpty:
            say(
                DoctorCheck(
                    "upstream", .warn, "\(url) answers but has no model list",
                    expected: "a list", remedy: "--model is believed as it stands"))
            return subject.selection.named
        case .unsupported:
            return fail(
                "it answers but has no model list", "name the models with --model")
        case .silent: return fail("no answer within 10 s", "look at the engine's own log")
        case .unreachable:
            return fail("nothing answers there", "start the engine, or correct --upstream")
        case .refused(let status) where status == 401 || status == 403:
            return fail("HTTP \(status)", "give its key with --upstream-key-file")
        case .refused(let status):
            return fail("HTTP \(status)", "look at the engine's own log")
        }
    }

    private func checkSelection(_ listed: [ListedModel]) -> [OfferedModel]? {
        let (models, skipped) = subject.selection.offered(of: listed)
        let missing = subject.selection.named.filter { named in
            !listed.contains { $0.name == named.engineName }
        }
        if !missing.isEmpty {
            let text = Self.list(missing.map(\.engineName))
            say(
                DoctorCheck(
                    "models", models.isEmpty ? .fail : .warn, "not served: \(text)",
                    expected: "what --model names",
                    remedy: "the upstream lists "
                        + Self.list(listed.map(\.name)) + "; NAME=UPSTREAM-NAME maps a name"))
        }
        if skipped > 0 {
            say(
                DoctorCheck(
                    "models", .warn, "\(skipped) names cannot travel, or are too many",
                    expected: "1 to 88 of A-Z a-z 0-9 . _ : / @ -",
                    remedy: "map them: --model NAME=UPSTREAM-NAME"))
        }
        guard !models.isEmpty else {
            if missing.isEmpty {
                say(
                    DoctorCheck(
                        "models", .fail, "the upstream serves none", expected: "one or more",
                        remedy: "load or pull a model there"))
            }
            return nil
        }
        say(DoctorCheck("models", .ok, Self.list(models.map(\.name))))
        return models
    }

    /// Times a short answer, and where slots are to be measured, several at once.
    private func measure(_ engine: some Engine, model: String, isCold: Bool) async {
        let probe = SlotProbe(engine, model: model)
        let patience: Duration = isCold ? .seconds(300) : .seconds(60)
        guard let alone = await probe.measure(1, timeout: patience) else {
            return say(
                DoctorCheck(
                    "answer", .fail, "\(model) gave no answer of a few words",
                    expected: "some tokens within \(patience.components.seconds) s",
                    remedy: "ask the engine the same by hand; its log says why it refuses"))
        }
        let rate = Int(alone.tokensPerSecond.rounded())
        let first = Int(EngineTiming.seconds(alone.firstToken) * 1_000)
        let text = "\(model): first token after \(first) ms, then \(rate) tokens/s"
        say(
            rate >= 5
                ? DoctorCheck("speed", .ok, text)
                : DoctorCheck(
                    "speed", .warn, text, expected: "5 tokens/s or more",
                    remedy: "clients prefer faster suppliers: a smaller model or quantisation "
                        + "wins more tasks"))
        guard subject.slots == .measured else { return }
        let result = await probe.run()
        say(
            DoctorCheck(
                "slots", .ok,
                "\(result.slots) answers at once keep half of the speed alone, or more"))
    }

    // MARK: Brokers

    private func check(broker: String) async {
        let name = "broker \(broker)"
        let address: BrokerAddress
        do throws(TransportError) {
            address = try BrokerAddress(broker)
        } catch {
            return say(
                DoctorCheck(
                    name, .fail, "cannot be read", expected: "host:port, or [address]:port",
                    remedy: "correct --broker"))
        }
        let outcome = await BrokerProbe(trust: subject.trust).look(at: address)
        guard BrokerFindings.checks(outcome, name: name, host: address.host, say: say),
            let credential = subject.credential
        else { return }
        let askedMs = Self.nowMs
        do throws(ReportError) {
            let report = try await SluiceSupplier.report(
                from: broker, credential: credential, trust: subject.trust)
            BrokerFindings.check(
                report, name: name, ownClockMs: Self.nowMs,
                roundMs: Self.nowMs - min(askedMs, Self.nowMs),
                say: say)
        } catch {
            say(BrokerFindings.check(error, name: name))
        }
    }

    private static var nowMs: UInt64 { UInt64(max(0, Date().timeIntervalSince1970 * 1_000)) }

    private static func list(_ names: [String]) -> String {
        let shown = names.prefix(8).joined(separator: ", ")
        return names.count > 8 ? shown + " and \(names.count - 8) more" : shown
    }
}
