import Foundation
import SharedMemory

/// Runs broker, sidecar, worker and gateway of one data directory until it is asked to stop, and starts
/// again whichever dies.
///
/// Everything that happens arrives as one stream of events, handled one at a time here; nothing
/// else changes the state.
package actor Supervisor {
    /// Longest wait for a program's first sign that it can serve.
    private static let readyTimeout = Duration.seconds(20)
    /// For the running tasks of a broker that was asked to end; its own limit is 30 s.
    private static let drainTimeout = Duration.seconds(40)
    /// A child that lived shorter than this waits before its next start.
    private static let stableAfter = Duration.seconds(1)
    /// From the worker's word that it is connected until its offers, which go out right behind
    /// it, have surely reached the broker.
    private static let offerTravelTime = Duration.milliseconds(100)

    private let home: DevelopmentHome
    private let run: RunDirectory
    private let keys: DevelopmentKeys
    private let options: DevelopmentOptions
    private let emit: @Sendable (JSONLine) -> Void
    private let warn: @Sendable (String) -> Void
    private let events: AsyncStream<SupervisorEvent>
    private let eventSource: AsyncStream<SupervisorEvent>.Continuation

    private var children: [ChildName: ChildProcess] = [:]
    private var starts: [ChildName: Int] = [:]
    private var quickDeaths: [ChildName: Int] = [:]
    private var restarting: Set<ChildName> = []
    private var port: Int
    private var httpPort: Int
    /// What the running worker offers, and whether it has a connection to the broker.
    private var models: Set<String> = []
    private var isWorkerConnected = false
    private var isStopping = false
    private var timer = 0

    /// Prepares a supervisor for a home whose certificates exist and whose lock the caller holds.
    ///
    /// - Parameters:
    ///   - emit: Takes the JSON lines meant for programs.
    ///   - warn: Takes one-line notes for a person.
    package init(
        home: DevelopmentHome, run: RunDirectory, keys: DevelopmentKeys,
        options: DevelopmentOptions, emit: @escaping @Sendable (JSONLine) -> Void,
        warn: @escaping @Sendable (String) -> Void
    ) {
        self.home = home
        self.run = run
        self.keys = keys
        self.options = options
        self.emit = emit
        self.warn = warn
        port = options.port
        httpPort = options.httpPort
        (events, eventSource) = AsyncStream.makeStream()
    }

    /// Asks for the end; a second time, for the end at once. Any thread.
    package nonisolated func requestStop() {
        eventSource.yield(.stopRequested)
    }

    /// Starts everything, then runs until asked to stop. Throws only if the set-up could never
    /// serve; the children are gone when this returns or throws.
    package func serve() async throws(DevelopmentError) {
        do {
            var iterator = events.makeAsyncIterator()
            let served = try await start(&iterator)
            if served { await keepRunning(&iterator) }
            await stop(&iterator)
        } catch {
            for child in children.values { child.kill() }
            throw error
        }
        if run.removeIfDrained() { return }
        warn("records of a broker that died are kept in \(run.path) for the next start")
    }

    // MARK: Phases

    /// Starts the children one after the other; false if the stop came first.
    private func start(
        _ iterator: inout AsyncStream<SupervisorEvent>.Iterator
    ) async throws(DevelopmentError) -> Bool {
        for name in [ChildName.sidecar, .broker, .worker, .gateway] {
            try spawn(name)
            guard try await waitUntilReady(name, &iterator) else { return false }
        }
        try? await Task.sleep(for: Self.offerTravelTime)
        var pids = JSONLine()
        for name in ChildName.allCases { pids.add(name.rawValue, children[name]?.pid) }
        var line = JSONLine()
        line.add("event", "ready")
        line.add("broker", "\(options.host):\(port)")
        line.add("ca", home.certificates.authority)
        line.add("clientKey", keys.clientKey)
        line.add("supplierToken", keys.supplierToken)
        line.add("http", "http://127.0.0.1:\(httpPort)")
        line.add("models", models.sorted())
        line.add("pids", pids)
        emit(line)
        return true
    }

    private func waitUntilReady(
        _ name: ChildName, _ iterator: inout AsyncStream<SupervisorEvent>.Iterator
    ) async throws(DevelopmentError) -> Bool {
        let limit = startTimer(Self.readyTimeout)
        while let event = await iterator.next(isolation: self) {
            switch event {
            case .report(let child, let number, let report) where isCurrent(child, number):
                if note(report, of: child), child == name { return true }
            case .exited(let child, let number, let status) where isCurrent(child, number):
                throw .notReady(program: child.program, reason: "it ended with status \(status)")
            case .stopRequested:
                return false
            case .timedOut(let timer) where timer == limit:
                throw .notReady(program: name.program, reason: "it did not say so within 20 s")
            case .report, .exited, .timedOut, .restartDue:
                continue
            }
        }
        return false
    }

    private func keepRunning(
        _ iterator: inout AsyncStream<SupervisorEvent>.Iterator
    ) async {
        while let event = await iterator.next(isolation: self) {
            switch event {
            case .report(let child, let number, let report) where isCurrent(child, number):
                if note(report, of: child), restarting.remove(child) != nil { announce(child) }
            case .exited(let child, let number, let status) where isCurrent(child, number):
                restartLater(child, status: status)
            case .restartDue(let child):
                restart(child)
            case .stopRequested:
                return
            case .report, .exited, .timedOut:
                continue
            }
        }
    }

    /// Ends the children in the order that loses nothing: the gateway takes no more and lets its
    /// answers end, the broker drains with its worker and
    /// sidecar still there, the sidecar stores the last records.
    private func stop(
        _ iterator: inout AsyncStream<SupervisorEvent>.Iterator
    ) async {
        isStopping = true
        for name in [ChildName.gateway, .broker, .worker, .sidecar] {
            guard let child = children[name] else { continue }
            child.terminate()
            let limit = startTimer(Self.drainTimeout)
            while children[name] != nil, let event = await iterator.next(isolation: self) {
                switch event {
                case .exited(let ended, let number, _) where isCurrent(ended, number):
                    children[ended] = nil
                case .stopRequested:
                    warn("ending at once")
                    child.kill()
                case .timedOut(let timer) where timer == limit:
                    warn("\(name.program) did not end in time")
                    child.kill()
                case .report, .exited, .timedOut, .restartDue:
                    continue
                }
            }
        }
    }

    // MARK: Children

    private func spawn(_ name: ChildName) throws(DevelopmentError) {
        let number = (starts[name] ?? 0) + 1
        starts[name] = number
        if name == .worker { (models, isWorkerConnected) = ([], false) }
        children[name] = try ChildProcess(
            name, run: number, path: options.programs + "/" + name.program,
            arguments: arguments(of: name),
            reports: name == .worker ? .onStandardError : .onStandardOutput,
            events: eventSource)
    }

    private func arguments(of name: ChildName) -> [String] {
        switch name {
        case .broker:
            [
                "--run", run.path, "--directory", home.directoryPath,
                "--certificate", home.certificates.server,
                "--private-key", home.certificates.serverKey,
                // For those who try client certificates: `sluice certs --client`.
                "--client-ca", home.certificates.authority,
                "--host", options.host, "--port", String(port),
                "--backend", options.backend, "--parent-pipe",
            ]
        case .sidecar:
            ["--data", home.path, "--run", run.path, "--parent-pipe"]
                + (home.masterKeyFile.map { ["--master-key-file", $0] } ?? [])
        case .worker:
            [
                "--broker", "\(options.host):\(port)", "--ca", home.certificates.authority,
                "--token-file", home.supplierTokenPath,
                "--slots", String(options.slots), "--parent-pipe",
                "--input-price", String(DevelopmentOptions.inputPrice),
                "--output-price", String(DevelopmentOptions.outputPrice),
            ] + options.engineArguments
        case .gateway:
            [
                "--broker", "\(options.host):\(port)", "--ca", home.certificates.authority,
                "--host", "127.0.0.1", "--port", String(httpPort), "--parent-pipe",
            ] + options.gatewayModelArguments
        }
    }

    /// Takes a report in; true if it means that the child can serve.
    private func note(_ report: ChildReport, of child: ChildName) -> Bool {
        switch (child, report.event) {
        case (.broker, "listening"):
            port = report.port ?? port
            return true
        case (.gateway, "listening"):
            httpPort = report.port ?? httpPort
            return true
        case (.sidecar, "ready"):
            return true
        case (.worker, "offered"):
            models = Set(report.models ?? [])
        case (.worker, "connected"):
            isWorkerConnected = true
        case (.worker, "disconnected"):
            isWorkerConnected = false
            return false
        default:
            return false
        }
        return isWorkerConnected && !models.isEmpty && models.isSuperset(of: options.expectedModels)
    }

    private func restartLater(_ child: ChildName, status: Int32) {
        guard let ended = children.removeValue(forKey: child) else { return }
        restarting.insert(child)
        let isQuick = ContinuousClock.now - ended.startedAt < Self.stableAfter
        let deaths = isQuick ? min((quickDeaths[child] ?? 0) + 1, 6) : 0
        quickDeaths[child] = deaths
        warn("\(child.program) (pid \(ended.pid)) ended with status \(status); starting it again")
        guard deaths > 0 else { return restart(child) }
        let source = eventSource
        Task {
            try? await Task.sleep(for: .milliseconds(50 << deaths))
            source.yield(.restartDue(child))
        }
    }

    private func restart(_ child: ChildName) {
        do {
            try spawn(child)
        } catch {
            warn("\(error)")
            let source = eventSource
            Task {
                try? await Task.sleep(for: .seconds(2))
                source.yield(.restartDue(child))
            }
        }
    }

    private func announce(_ child: ChildName) {
        var line = JSONLine()
        line.add("event", "restarted")
        line.add("name", child.rawValue)
        line.add("pid", children[child]?.pid)
        emit(line)
    }

    private func isCurrent(_ child: ChildName, _ number: Int) -> Bool {
        children[child]?.run == number
    }

    private func startTimer(_ duration: Duration) -> Int {
        timer += 1
        let (number, source) = (timer, eventSource)
        Task {
            try? await Task.sleep(for: duration)
            source.yield(.timedOut(timer: number))
        }
        return number
    }
}
