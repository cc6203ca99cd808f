import Foundation
import Glibc
import LinuxIO

/// How long and how a run is made.
package struct RunOptions: Equatable, Sendable {
    package var warmUpSeconds = 2.0
    package var seconds = 8.0
    /// Each paced token is sealed into a record of its own, as an engine that flushes every token
    /// does; else records are as full as a turn makes them. Unpaced tokens always fill records.
    package var sealsEachToken = true
    /// Have `perf` count the target's system calls, which makes each of them dearer.
    package var countsSyscalls = false

    package init() {}
}

/// What one run of one target has shown.
package struct RunOutcome: Sendable {
    package var target: TargetName
    package var seconds: Double
    package var groups: [GroupMeasures]
    package var sendDelay: LatencyHistogram
    package var churn: LatencyHistogram
    /// For each of the target's processes: what it spent within the window, and its memory.
    package var processes: [(name: String, spent: ProcessSample)]
    /// Processor time of the generator's threads by the time of its processors.
    package var generatorUtilisation: Double
    package var faults: [UInt64]
    package var lost: UInt64
    package var loadAverage: Double?
    /// System calls of the target within the window; nil unless they were counted.
    package var syscalls: UInt64?
    /// Memory that the target took while the clients connected, by their number; nil without
    /// processes.
    package var bytesPerConnection: Double?

    package var tokens: UInt64 { groups.reduce(0) { $0 + $1.tokens } }
    package var tasks: UInt64 { groups.reduce(0) { $0 + $1.tasks } }
    package var errors: UInt64 { faults.reduce(0, +) }
    package var isValid: Bool { errors == 0 && lost == 0 && tokens > 0 }
    /// Above 80 % the generator itself is what latencies show.
    package var areLatenciesVoid: Bool { generatorUtilisation > 0.8 }
    package var processorNs: UInt64 { processes.reduce(0) { $0 + $1.spent.processorNs } }
    package var residentBytes: UInt64 { processes.reduce(0) { $0 + $1.spent.residentBytes } }
}

/// One run: starts the generator's threads against a target, follows them through the phases,
/// and reads what the system counted.
struct LoadRun {
    let target: RunningTarget
    let rig: Rig
    let workload: Workload
    let options: RunOptions
    let progress: (String) -> Void

    func measure() throws -> RunOutcome {
        try target.check()
        let plans = makePlans()
        let control = GeneratorControl(engineCount: plans.count)
        for plan in plans {
            EngineThread.start(plan, speech: target.name.speech, control: control)
        }
        do {
            try reach(.suppliers, control, seconds: 15)
            // The last offers are on their way.
            usleep(100_000)
            let bare = samples
            control.order(.clients, nowNs: MonotonicClock.nowNs)
            try reach(.clients, control, seconds: 120)
            let connected = samples
            control.order(.warmUp, nowNs: MonotonicClock.nowNs)
            try sleep(options.warmUpSeconds, control, "warm-up")
            var outcome = try window(control, plans)
            outcome.bytesPerConnection = bytesPerConnection(bare, connected)
            return outcome
        } catch {
            control.order(.stop, nowNs: MonotonicClock.nowNs)
            _ = awaitResults(control)
            throw error
        }
    }

    private func window(_ control: GeneratorControl, _ plans: [EnginePlan]) throws -> RunOutcome {
        let before = samples
        let fromNs = MonotonicClock.nowNs
        control.order(.measure, nowNs: fromNs)
        let syscalls =
            options.countsSyscalls ? SyscallCount(target.processes, options.seconds) : nil
        try sleep(options.seconds, control, "measuring")
        let untilNs = MonotonicClock.nowNs
        control.order(.drain, nowNs: untilNs)
        let after = samples
        let load = loadAverage()
        // What has not ended by then is lost.
        try? reach(.drain, control, seconds: 15)
        control.order(.stop, nowNs: MonotonicClock.nowNs)
        guard let results = awaitResults(control) else {
            throw BenchError.generator("a thread did not stop")
        }
        try target.check()
        var found = outcome(
            results, before, after, wallNs: untilNs - fromNs, load: load, plans: plans)
        found.syscalls = syscalls?.finish()
        return found
    }

    // MARK: Plans

    /// One thread plays both sides on one processor; on several, clients and suppliers have their
    /// own.
    private func makePlans() -> [EnginePlan] {
        let processors = rig.generatorProcessors
        let plan = EnginePlan(
            number: 0, processors: processors, backend: rig.backend.resolve().kind,
            workload: workload, playsClients: true, playsSuppliers: true,
            clientPort: target.clientPort, supplierSide: target.supplierSide,
            clientTLS: rig.clientTLS(target.name.speech),
            serverTLS: rig.serverTLS(target.name.speech),
            key: rig.clientKey, token: rig.supplierToken,
            skipsLine: target.name == .nats,
            sealsEachToken: options.sealsEachToken,
            burstDelayNs: UInt64((options.warmUpSeconds + 0.5) * 1e9))
        guard processors.count > 1 else { return [plan] }
        var clients = plan
        clients.playsSuppliers = false
        clients.processors = [processors[0]]
        var suppliers = plan
        suppliers.number = 1
        suppliers.playsClients = false
        suppliers.processors = Array(processors[1...])
        return [clients, suppliers]
    }

    // MARK: Waiting

    private func reach(
        _ phase: RunPhase, _ control: GeneratorControl, seconds: Double
    ) throws {
        let limitNs = MonotonicClock.nowNs + UInt64(seconds * 1e9)
        while !control.isReached(phase) {
            if let failure = control.failure { throw BenchError.generator(failure) }
            if phase != .drain { try failOnFaults(control) }
            guard MonotonicClock.nowNs < limitNs else {
                throw BenchError.generator("\(phase) did not come to an end in \(seconds) s")
            }
            usleep(2_000)
        }
    }

    private func failOnFaults(_ control: GeneratorControl) throws {
        for snapshot in control.snapshots {
            guard let kind = RunFault.allCases.first(where: { snapshot.faults[$0.rawValue] > 0 })
            else { continue }
            try target.check()
            throw BenchError.generator("\(target.name.rawValue) did not serve: \(kind)")
        }
    }

    private func sleep(_ seconds: Double, _ control: GeneratorControl, _ what: String) throws {
        let startNs = MonotonicClock.nowNs
        let endNs = startNs + UInt64(seconds * 1e9)
        var last = control.snapshots.reduce(0) { $0 + $1.tokensReceived }
        var lastNs = startNs
        while true {
            let nowNs = MonotonicClock.nowNs
            guard nowNs < endNs else { return }
            usleep(UInt32(min(500_000, (endNs - nowNs) / 1_000)))
            if let failure = control.failure { throw BenchError.generator(failure) }
            let snapshots = control.snapshots
            let tokens = snapshots.reduce(0) { $0 + $1.tokensReceived }
            let open = snapshots.reduce(0) { $0 + Int($1.submitted) - Int($1.ended) }
            let elapsedNs = MonotonicClock.nowNs - lastNs
            if elapsedNs > 200_000_000 {
                let rate = Double(tokens - last) / Double(elapsedNs) * 1e9
                progress(
                    "\(target.name.rawValue) \(workload.name) \(what): "
                        + "\(Int(rate)) tokens/s, \(open) open tasks")
                (last, lastNs) = (tokens, MonotonicClock.nowNs)
            }
        }
    }

    private func awaitResults(_ control: GeneratorControl) -> [EngineResult]? {
        for _ in 0..<5_000 {
            if let results = control.results { return results }
            usleep(1_000)
        }
        return nil
    }

    // MARK: Counting

    private var samples: [ProcessSample] {
        target.processes.map { ProcessSample(pid: $0.pid) ?? ProcessSample() }
    }

    private func bytesPerConnection(
        _ before: [ProcessSample], _ after: [ProcessSample]
    ) -> Double? {
        let count = workload.groups.reduce(0) { $0 + ($1.isChurning ? 0 : $1.connections) }
        guard !before.isEmpty, count > 0 else { return nil }
        let grown = zip(before, after).reduce(0.0) {
            $0 + Double($1.1.residentBytes) - Double($1.0.residentBytes)
        }
        return grown / Double(count)
    }

    private func outcome(
        _ results: [EngineResult], _ before: [ProcessSample], _ after: [ProcessSample],
        wallNs: UInt64, load: Double?, plans: [EnginePlan]
    ) -> RunOutcome {
        var groups = [GroupMeasures](repeating: GroupMeasures(), count: workload.groups.count)
        var faults = [UInt64](repeating: 0, count: RunFault.allCases.count)
        var delay = LatencyHistogram()
        var churn = LatencyHistogram()
        var total = EngineSnapshot()
        var ownNs: UInt64 = 0
        for result in results {
            for index in groups.indices where index < result.measures.count {
                groups[index].add(result.measures[index])
            }
            for index in faults.indices { faults[index] += result.last.faults[index] }
            delay.add(result.sendDelay)
            churn.add(result.churn)
            total.tokensSent += result.last.tokensSent
            total.tokensReceived += result.last.tokensReceived
            total.submitted += result.last.submitted
            total.ended += result.last.ended
            ownNs += result.windowProcessorNs
        }
        let spent = target.processes.indices.map { index in
            (name: target.processes[index].name, spent: after[index].since(before[index]))
        }
        let lostTokens = abs(Int64(total.tokensSent) - Int64(total.tokensReceived))
        // More ends than tasks would be faults already.
        let lostTasks = max(0, Int64(total.submitted) - Int64(total.ended))
        return RunOutcome(
            target: target.name, seconds: Double(wallNs) / 1e9, groups: groups, sendDelay: delay,
            churn: churn, processes: spent,
            generatorUtilisation: Double(ownNs) / Double(wallNs) / Double(plans.count),
            faults: faults, lost: UInt64(lostTokens + lostTasks), loadAverage: load)
    }
}

extension ProcessSample {
    /// What was counted since an earlier sample; memory as it is now.
    func since(_ earlier: ProcessSample) -> ProcessSample {
        var spent = self
        spent.processorNs = processorNs &- earlier.processorNs
        spent.voluntarySwitches = voluntarySwitches &- earlier.voluntarySwitches
        spent.involuntarySwitches = involuntarySwitches &- earlier.involuntarySwitches
        return spent
    }
}
