import SluiceInMemory
import SluiceRecordFormat
import SluiceWire

/// Rings → segments → store → directory, with deaths at every step.
extension Simulation {
    static let lostAfterUs: UInt64 = 660_000_000
    private static let recordsPerPass = 64
    private static let recordsPerTransaction = 48

    /// One turn of a node's sidecar, at whose end the next one is planned.
    mutating func sidecarTurn(_ node: Node) {
        at(nowUs + pauseUs(), .sidecar(node: node.number))
        startSidecar(node)
        var death: SidecarModel.Death?
        if options.sidecarCrashes, !isHealed, durability.chance(6) {
            death = durability.pick(SidecarModel.Death.allCases)
        }
        guard copyRings(node, death), applySegments(node, death) else {
            node.sidecar = nil
            return
        }
        closeVanished(node)
        guard death != .beforeDirectory else {
            oracle.count("sidecar died before the directory")
            node.sidecar = nil
            return
        }
        node.publishedChanges = store.wallets.changes.count
        oracle.hash.add(UInt64(store.wallets.settled.count))
        oracle.hash.add(UInt64(bitPattern: store.wallets.charged.rawValue))
        readDirectory(node)
        checkDurability(node)
    }

    private mutating func pauseUs() -> UInt64 {
        if isSettling { return 1_000_000 }
        let most = isHealed ? 60_000 : options.tinyRing ? 3_000_000 : 200_000
        return UInt64(durability.pick(10_000...most))
    }

    private func startSidecar(_ node: Node) {
        guard node.sidecar == nil else { return }
        let sidecar = SidecarModel(&node.disk)
        node.sidecar = sidecar
        guard sabotage != .notSyncedAtStart else { return }
        node.disk.sync()
        for (instance, sequence) in sidecar.lastSequences {
            node.durable[instance] = max(node.durable[instance, default: 0], sequence)
        }
    }

    // MARK: Rings to segments

    /// False when the sidecar died.
    private mutating func copyRings(_ node: Node, _ death: SidecarModel.Death?) -> Bool {
        guard var sidecar = node.sidecar else { return false }
        var bytes: [UInt8] = []
        var ends: [(instance: UInt64, sequence: UInt64)] = []
        for instance in node.instances {
            let from = Int(sidecar.position(instance, oracle))
            oracle.check(
                from > instance.head, "[I13] the reader of \(instance.id) is behind its ring")
            // An earlier one may have died between its sync and its release.
            node.release(instance.id, through: UInt64(from - 1))
            let through = min(instance.tail, from - 1 + Self.recordsPerPass)
            guard from <= through else { continue }
            for record in instance.records[from - 1..<through] {
                record.words.sealed.append(to: &bytes)
            }
            ends.append((instance.id, UInt64(through)))
        }
        node.sidecar = sidecar
        if !bytes.isEmpty {
            guard node.disk.append(bytes) else {
                oracle.count("disk full")
                return true
            }
            if sabotage == .releasedEarly {
                for end in ends { node.release(end.instance, through: end.sequence) }
                checkDurability(node)
            }
            if death == .beforeSync {
                oracle.count("sidecar died before its sync")
                return false
            }
            node.disk.sync()
            for end in ends { node.durable[end.instance] = end.sequence }
            if death == .beforeRelease {
                oracle.count("sidecar died before its release")
                return false
            }
            for end in ends {
                node.release(end.instance, through: end.sequence)
                sidecar.copied(end.instance, through: end.sequence)
            }
        }
        removeClosed(node, &sidecar)
        node.sidecar = sidecar
        return true
    }

    /// Closed, drained to the disk, and dead: nobody needs it any more.
    private func removeClosed(_ node: Node, _ sidecar: inout SidecarModel) {
        for dead in node.graveyard where dead.closedBy != 0 {
            guard sidecar.position(dead, oracle) > UInt64(dead.tail) else { continue }
            node.graveyard.removeAll { $0.id == dead.id }
            sidecar.forget(dead.id)
            oracle.count("instance removed")
        }
    }

    /// What was released is on the device or in the store.
    private func checkDurability(_ node: Node) {
        for instance in node.instances {
            let kept = max(
                node.durable[instance.id, default: 0],
                store.wallets.cursors[instance.id, default: 0])
            oracle.check(
                UInt64(instance.head) <= kept,
                "[I13] \(instance.head) records of \(instance.id) are released, \(kept) durable")
        }
    }

    // MARK: Segments to the store

    /// False when the sidecar died.
    private mutating func applySegments(_ node: Node, _ death: SidecarModel.Death?) -> Bool {
        for _ in 0..<4 {
            guard let sidecar = node.sidecar else { return false }
            let (records, end) = sidecar.unapplied(node.disk, atMost: Self.recordsPerTransaction)
            if end > sidecar.offset {
                if death == .beforeCommit {
                    oracle.count("sidecar died before its commit")
                    return false
                }
                let outcome = storeOutcome()
                let isApplied = store.apply(
                    records, node: node.number, nowMs: wallUs(node) / 1_000, outcome: outcome)
                checkStore()
                if death == .afterCommit {
                    oracle.count("sidecar died after its commit")
                    return false
                }
                guard isApplied else { return true }
                node.sidecar?.applied(through: end)
            }
            guard let finished = node.sidecar?.finishSegment(node.disk) else { return true }
            oracle.count("segment removed")
            node.disk.remove(finished)
        }
        return true
    }

    private mutating func storeOutcome() -> StoreModel.Outcome {
        if store.isDown { oracle.count("store down") }
        guard options.storeFaults, !isHealed else { return .committed }
        switch durability.pick(0...99) {
        case 0..<6:
            oracle.count("transaction refused")
            return .refused
        case 6..<9:
            oracle.count("commit unknown, lost")
            return .unknown(isCommitted: false)
        case 9..<14:
            oracle.count("commit unknown, done")
            return .unknown(isCommitted: true)
        default: return .committed
        }
    }

    /// Ends what vanished instances left open, once all that they had written is applied.
    private mutating func closeVanished(_ node: Node) {
        guard nowUs >= node.nextLostCheckUs, let sidecar = node.sidecar,
            sidecar.unapplied(node.disk, atMost: 1).records.isEmpty
        else { return }
        node.nextLostCheckUs = nowUs + 5_000_000
        let wall = wallUs(node)
        let lost = store.closeVanished(
            node: node.number, present: Set(node.instances.map(\.id)),
            acceptedBeforeUs: wall - Self.lostAfterUs, nowMs: wall / 1_000)
        oracle.count("ended as lost", lost)
        checkStore()
    }

    // MARK: Store to brokers

    /// The node's broker looks at its directory.
    mutating func readDirectory(_ node: Node) {
        guard !node.isBrokerDown else { return }
        let changes = store.wallets.changes
        for entry in changes[node.seenChanges..<max(node.seenChanges, node.publishedChanges)] {
            node.broker.directoryChanged(.lease(entry), wallUs: wallUs(node))
        }
        node.seenChanges = max(node.seenChanges, node.publishedChanges)
        if node.broker.hasWork { planTurn(node) }
    }
}
