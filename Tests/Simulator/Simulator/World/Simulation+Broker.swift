import SluiceBrokerCore
import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// A node's broker: its turns, its death, and its successor.
extension Simulation {
    mutating func planTurn(_ node: Node) {
        guard !node.isTurnDue else { return }
        node.isTurnDue = true
        at(nowUs + UInt64(schedule.pick([1, 1, 20, 1_000])), .turn(node: node.number))
    }

    /// After bytes came in: mostly a turn at once, sometimes more bytes first.
    mutating func afterBroker(_ node: Node) {
        node.timeRecords(nowUs: nowUs)
        if sabotage == .arrivalUnnoticed { return }
        if schedule.chance(70) { turn(node) } else { planTurn(node) }
    }

    mutating func turn(_ node: Node) {
        guard !node.isBrokerDown else { return }
        node.broker.turn(nowUs: nowUs, wallUs: wallUs(node))
        node.turnedAtUs = nowUs
        node.turnedAtWallUs = wallUs(node)
        node.isTouched = false
        readJournal(node)
        readSealed(node)
        let held = node.broker.heldBytes
        oracle.check(
            held.bodies <= options.limits.bodyArenaBytes
                + options.shards * options.limits.landingArenaBytes,
            "[I11] \(held.bodies) bytes of bodies")
        oracle.check(
            held.answers <= options.limits.answerArenaBytes, "[I11] \(held.answers) of answers")
        checkLeases(node)
        if node.broker.isDead { return brokerDied(node) }
        node.tap.check { node.broker.isOpen($0) && !node.broker.isClosing($0) }
        checkAtRest(node)
        for link in links.indices {
            guard let state = links[link], state.node == node.number else { continue }
            if !node.broker.isOpen(state.connection) { drop(link) } else { planToPeer(link) }
        }
        if node.isDraining, node.broker.openStreams == 0, !node.broker.hasWork {
            endInOrder(node)
        }
        guard !node.isBrokerDown else { return }
        if node.broker.hasWork {
            if sabotage != .wakeUpLost { planTurn(node) }
        } else if node.broker.isLeaseAwaited, !node.isTurnDue {
            // As a shard's loop looks at its directory while tasks wait for it.
            node.isTurnDue = true
            at(nowUs + 5_000, .turn(node: node.number))
        }
    }

    func readSealed(_ node: Node) {
        for (connection, bytes) in node.broker.takeSealed() {
            if bytes.isEmpty {
                node.tap.closed(connection)
                node.tampering[connection] = nil
            } else if let sabotage, sabotage.isOfWhatBrokerSays {
                let running = node.tap.openTasks.first { node.tap.tasks[$0]?.supplier != nil }
                let said = node.tampering[connection, default: Tampering(sabotage)]
                    .said(bytes, running: running)
                node.tap.sealed(connection, said)
            } else {
                node.tap.sealed(connection, bytes)
            }
        }
    }

    /// It has drained; it may still die between the last words that it writes.
    private mutating func endInOrder(_ node: Node) {
        oracle.count("drained out")
        if options.brokerCrashes, !isHealed, schedule.chance(50) {
            node.broker.instance.die(afterWrites: schedule.pick(1...3))
        }
        node.broker.closeInOrder()
        readJournal(node)
        if node.broker.instance.closedBy != 0 { oracle.count("closed in order") }
        node.broker.instance.die(afterWrites: 0)
        brokerDied(node)
    }

    mutating func readJournal(_ node: Node) {
        node.timeRecords(nowUs: nowUs)
        let instance = node.broker.instance
        while node.heardRecords < instance.tail {
            let record = instance.records[node.heardRecords]
            let atUs = node.recordTimesUs[node.heardRecords]
            oracle.published(record, atUs: atUs)
            node.tap.published(record)
            oracle.hash.add(UInt64(record.words.checksum))
            if sabotage == .accountStarved, isCompeting { serveLast(record) }
            if sabotage == .endedTwice, wasReset, record.kind == .ended {
                oracle.published(record, atUs: atUs)
            }
            node.heardRecords += 1
        }
    }

    /// As if it had waited for an hour, where its account is the last.
    private func serveLast(_ record: JournalRecord) {
        guard let ended = EndedRecord(record),
            oracle.tasks[ended.task]?.account == accountNumbers.last
        else { return }
        oracle.tasks[ended.task]?.ended?.queueUs = 3_600_000_000
    }

    func countRareBranches(_ node: Node) {
        let counters = node.broker.counters
        oracle.count("quarantined", Int(counters.quarantinedSlots))
        oracle.count("late frames", Int(counters.lateFrames))
        oracle.count("discarded TOKENS", Int(counters.discardedTokenFrames))
        oracle.count("stalled readers", Int(counters.stalledReaders))
        let dispatched = node.broker.dispatcher.counters
        oracle.count("lease waits", Int(dispatched.leaseWaits))
        oracle.count("holds refused", Int(dispatched.holdsRefused))
        oracle.count("breaker opened", Int(dispatched.breakersOpened))
    }

    mutating func brokerDied(_ node: Node) {
        guard !node.isBrokerDown else { return }
        countRareBranches(node)
        oracle.note("broker \(node.broker.instance.id) is dead")
        oracle.count("broker died")
        node.isBrokerDown = true
        node.isDraining = false
        node.graveyard.append(node.broker.instance)
        node.tap.brokerDied()
        node.tampering = [:]
        for link in links.indices where links[link]?.node == node.number { drop(link) }
        at(nowUs + UInt64(schedule.pick(1_000...3_000_000)), .restart(node: node.number))
    }

    mutating func startBroker(_ node: Node) {
        guard node.isBrokerDown else { return }
        nextInstance += 1
        let accounts = options.prepaid ? accountNumbers : []
        var limits = options.limits
        if sabotage == .arenaTooLarge { limits.bodyArenaBytes *= 8 }
        node.broker = InMemoryBroker(
            limits: limits,
            instance: InMemoryInstance(id: nextInstance, capacity: options.ringRecords),
            credentials: credentials,
            directory: accounts.map { .account(DirectoryAccount(account: $0, isPrepaid: true)) },
            shardCount: options.shards, dispatcherIsAtShard0: !options.dispatcherIsApart,
            seed: seed &+ UInt64(node.number), nowUs: nowUs, wallUs: wallUs(node))
        node.broker.keepsSealed = true
        node.turnedAtUs = nowUs
        node.turnedAtWallUs = wallUs(node)
        node.heardRecords = 0
        node.recordTimesUs = []
        node.seenChanges = 0
        if options.brokerCrashes, !isHealed, schedule.chance(20), !node.graveyard.isEmpty {
            node.broker.instance.die(afterWrites: schedule.pick(1...12))
        }
        closeDead(node)
        readJournal(node)
        node.isBrokerDown = false
        if node.broker.isDead {
            oracle.count("closer died")
            return brokerDied(node)
        }
        readDirectory(node)
        oracle.note("broker \(nextInstance) is up on node \(node.number)")
    }

    private func closeDead(_ node: Node) {
        guard sabotage != .neverClosed else { return }
        for index in node.graveyard.indices where node.graveyard[index].closedBy == 0 {
            var dead = node.graveyard[index]
            node.broker.close(&dead, all: node.graveyard)
            node.graveyard[index] = dead
            if node.broker.isDead { return }
        }
    }

    /// The machine loses power: its broker, tmpfs and sidecar are gone, and what was not synced.
    mutating func losePower(_ node: Node) {
        oracle.note("node \(node.number) loses power")
        oracle.count("power failure")
        node.broker.instance.die(afterWrites: 0)
        brokerDied(node)
        let gone = node.graveyard
        node.graveyard = []
        node.sidecar = nil
        node.disk.losePower(&faults)
        var accepted: Set<TaskID> = []
        var ended: Set<TaskID> = []
        for record in node.disk.scan() {
            if let entry = AcceptedRecord(record) { accepted.insert(entry.task) }
            if let entry = EndedRecord(record) { ended.insert(entry.task) }
        }
        // What must be there for ever, and what the store has to end by itself.
        for instance in gone {
            let promised = node.durable[instance.id, default: 0]
            for record in instance.records.prefix(instance.tail) {
                if let entry = AcceptedRecord(record) {
                    let isKept = accepted.contains(entry.task) || store.wallets.knows(entry.task)
                    oracle.check(
                        isKept || record.sequence > promised,
                        "[I13] \(entry.task) was durable and is gone")
                    oracle.powerFailed(
                        entry.task, isKept: isKept,
                        isEnded: ended.contains(entry.task)
                            || store.wallets.settled[entry.task] != nil)
                } else if let entry = EndedRecord(record), entry.task.instance != instance.id {
                    // Written for another dead instance, whose ACCEPTED may be safe long since.
                    oracle.powerFailed(
                        entry.task,
                        isKept: accepted.contains(entry.task) || store.wallets.knows(entry.task),
                        isEnded: ended.contains(entry.task)
                            || store.wallets.settled[entry.task] != nil)
                }
            }
        }
    }
}
