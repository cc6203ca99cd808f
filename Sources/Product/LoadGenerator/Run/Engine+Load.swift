import LinuxIO
import SecureTransport

// What is begun and sent, and when.
extension Engine where Backend: ~Copyable {
    // MARK: Phases

    mutating func followPhase() {
        let ordered = control.phase
        while phase.rawValue < ordered.rawValue, let next = RunPhase(rawValue: phase.rawValue + 1) {
            phase = next
            enter(next)
        }
    }

    private mutating func enter(_ phase: RunPhase) {
        switch phase {
        case .clients:
            connectClients()
        case .warmUp:
            startLoad()
        case .measure:
            tasks.window = control.window
            windowStartProcessorNs = MonotonicClock.threadNs
            result.sendDelay = LatencyHistogram()
            result.churn = LatencyHistogram()
        case .drain:
            result.windowProcessorNs = MonotonicClock.threadNs - windowStartProcessorNs
            tasks.window = control.window
            beginDrain()
        case .suppliers, .stop:
            break
        }
    }

    var isGoalReached: Bool {
        switch phase {
        case .suppliers:
            if case .listen = plan.supplierSide {
                true
            } else {
                suppliers.allSatisfy { $0.dialect.isReady && $0.dialect.output.isEmpty }
            }
        case .clients: areClientsReady
        case .warmUp, .measure, .stop: true
        case .drain: tasks.ended == tasks.submitted && closingChurn == 0
        }
    }

    private mutating func startLoad() {
        var base = 0
        for group in plan.workload.groups where plan.playsClients {
            for index in 0..<group.streamCount where !group.isIdle {
                let slot = base + index
                guard group.isOpenLoop else {
                    begin(slot, tokens: ArrivalSchedule(group, index: index, startNs: 0).tokens)
                    continue
                }
                // Streams of one connection do not follow one another: those of all take turns.
                let turn = index % group.streams * group.connections + index / group.streams
                let startNs = nowNs + (group.arrivesInBursts ? plan.burstDelayNs : 0)
                arrivals.start(slot, ArrivalSchedule(group, index: turn, startNs: startNs))
            }
            base += group.streamCount
        }
    }

    private mutating func beginDrain() {
        tasks.isDraining = true
        supply.isDraining = true
        for place in clients.indices { _ = clients[place].dialect.dropWaiting() }
        // What was due and has not begun counts with the time it has waited.
        for due in arrivals.stop(at: nowNs) {
            tasks.neverStarted(due.slot, intendedNs: due.intendedNs, nowNs: nowNs)
        }
        for place in clients.indices {
            // Slow readers read all now.
            if clients[place].isReadDue { readsDue.push(DueQueue.Entry(ns: 0, id: Int32(place))) }
        }
    }

    // MARK: Clients

    /// Streams whose task ended: the next begins at once in a closed loop, or when it is due.
    mutating func beginAnew() {
        guard !tasks.freed.isEmpty else { return }
        // What begins anew may end no task, so the list does not grow meanwhile.
        for slot in tasks.freed {
            let client = Int(slots[Int(slot)].client)
            if plan.workload.groups[clients[client].group].isChurning {
                endChurn(client)
            } else {
                streamFreed(Int(slot))
            }
        }
        tasks.freed.removeAll(keepingCapacity: true)
    }

    mutating func streamFreed(_ slot: Int) {
        let isClosedLoop = arrivals.freed(slot)
        guard isClosedLoop, phase == .warmUp || phase == .measure else { return }
        let group = plan.workload.groups[clients[Int(slots[slot].client)].group]
        begin(slot, tokens: group.tokensPerTask)
    }

    mutating func submitDue() {
        if readsDue.firstNs ?? .max <= nowNs { readDue() }
        while let due = arrivals.next(dueAt: nowNs) {
            let client = Int(slots[due.slot].client)
            if plan.workload.groups[clients[client].group].isChurning {
                beginChurn(client, intendedNs: due.intendedNs)
            }
            begin(due.slot, tokens: due.tokens, intendedNs: due.intendedNs)
        }
    }

    private mutating func begin(_ slot: Int, tokens: Int, intendedNs: UInt64? = nil) {
        let client = Int(slots[slot].client)
        let group = plan.workload.groups[clients[client].group]
        arrivals.take(slot)
        clients[client].dialect.submit(
            Int(slots[slot].stream), order: TaskOrder(group, tokens: tokens),
            intendedNs: intendedNs ?? nowNs, tasks: &tasks)
        markClient(client)
    }

    // MARK: Suppliers

    /// Tasks that can send again take their place: by when they are due, or in turn.
    mutating func wakeTasks() {
        guard !supply.woken.isEmpty else { return }
        for number in supply.woken {
            let task = supply.tasks[Int(number)]
            if task.isPaced {
                tokensDue.push(DueQueue.Entry(ns: task.dueNs, id: number))
            } else {
                suppliers[Int(task.connection)].ring.push(number)
            }
        }
        supply.woken.removeAll(keepingCapacity: true)
    }

    /// Sends the paced tokens that are due, each under the time it was meant to be sent.
    mutating func sendDue() {
        let latestNs = supply.isDraining ? .max : nowNs
        while let entry = tokensDue.pop(dueAt: latestNs) {
            let number = entry.id
            let task = supply.tasks[Int(number)]
            let place = Int(task.connection)
            guard suppliers[place].dialect.canSend(task) else {
                supply.tasks[Int(number)].isListed = false
                continue
            }
            suppliers[place].dialect.sendToken(task, intendedNs: min(task.dueNs, nowNs))
            if task.dueNs <= nowNs { result.sendDelay.record(nowNs - task.dueNs) }
            if supply.sentToken(number) {
                finish(number)
            } else {
                let next = supply.tasks[Int(number)].dueNs
                tokensDue.push(DueQueue.Entry(ns: next, id: number))
            }
            markSupplier(place)
            if plan.sealsEachToken, let channel = suppliers[place].channel {
                Self.seal(&transport, channel, &suppliers[place].dialect.output)
            }
        }
    }

    private mutating func finish(_ number: Int32) {
        let place = Int(supply.tasks[Int(number)].connection)
        suppliers[place].dialect.sendEnd(supply.tasks[Int(number)])
        supply.close(number)
    }

    /// Tokens of all unpaced tasks in turn, up to a turn's bytes on each connection; whether some
    /// connection has more to say and room for it.
    mutating func produce() -> Bool {
        var isUnfinished = false
        for place in suppliers.indices {
            guard !suppliers[place].ring.isEmpty, let channel = suppliers[place].channel else {
                continue
            }
            let budget = min(49_152, transport.sealBudgetBytes(channel) - 4_096)
            guard budget > 0 else { continue }
            while suppliers[place].dialect.output.waitingBytes < budget,
                let number = suppliers[place].ring.pop()
            {
                let task = supply.tasks[Int(number)]
                guard suppliers[place].dialect.canSend(task) else {
                    supply.tasks[Int(number)].isListed = false
                    continue
                }
                suppliers[place].dialect.sendToken(task, intendedNs: nowNs)
                if supply.sentToken(number) {
                    finish(number)
                } else {
                    suppliers[place].ring.push(number)
                }
            }
            markSupplier(place)
            if !suppliers[place].ring.isEmpty { isUnfinished = true }
        }
        return isUnfinished
    }
}
