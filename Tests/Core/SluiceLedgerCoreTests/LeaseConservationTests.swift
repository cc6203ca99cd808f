import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Testing

/// One wallet, several brokers, in any order of events: nothing is lost, nothing is spent twice.
@Suite struct LeaseConservationTests {
    /// An instance with its journal on the way to the wallet, and the directory on the way back.
    private struct Broker {
        let instance: UInt64
        var lease = BrokerLease(account: 1)
        var holds: [MicroUSD] = []
        var journal: [Event] = []
        var isDead = false

        enum Event {
            case lease(LeaseRecord)
            case ended(MicroUSD)
        }
    }

    /// The seeded sequence of a case, so that a failure can be had again.
    private struct Sequence: RandomNumberGenerator {
        var state: UInt64

        mutating func next() -> UInt64 {
            state &+= 0x9E37_79B9_7F4A_7C15
            var mixed = state
            mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
            mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
            return mixed ^ (mixed >> 31)
        }
    }

    /// Amounts from a micro-USD up to where a sum of them would not fit.
    @Test(arguments: 0..<500)
    func nothingIsLostAndNothingIsSpentTwice(seed: UInt64) {
        var random = Sequence(state: seed)
        let scale = Int64(1) << Int64.random(in: 4...55, using: &random)
        func amount(_ random: inout Sequence) -> MicroUSD {
            MicroUSD(.random(in: 0...scale, using: &random))
        }
        var wallet = Wallet(balance: amount(&random))
        var paidIn = wallet.balance.rawValue
        var costs: Int64 = 0
        var nextInstance: UInt64 = 4
        var brokers = (1...3).map { Broker(instance: $0) }
        var nowMs: UInt64 = 0

        for _ in 0..<400 {
            nowMs += 1_000
            let index = Int.random(in: 0..<brokers.count, using: &random)
            switch Int.random(in: 0..<10, using: &random) {
            case 0, 1:
                guard !brokers[index].isDead else { continue }
                let hold = amount(&random)
                if brokers[index].lease.hold(hold, nowMs: nowMs) {
                    brokers[index].holds.append(hold)
                } else if brokers[index].lease.ask(missing: hold, recentCost: amount(&random)) {
                    write(&brokers[index], nowMs)
                }
            case 2, 3:
                // A task ends; of a dead broker its successor says so.
                guard let hold = brokers[index].holds.popLast() else { continue }
                let cost = MicroUSD(.random(in: 0...hold.rawValue, using: &random))
                brokers[index].lease.capture(cost: cost, held: hold)
                brokers[index].journal.append(.ended(cost))
            case 4:
                // The directory says what the wallet's half is.
                let instance = brokers[index].instance
                guard !brokers[index].isDead,
                    let row = wallet.leases.first(where: { $0.instance == instance })
                else { continue }
                brokers[index].lease.apply(
                    DirectoryLease(
                        account: 1, instance: instance, granted: row.granted,
                        recalled: row.recalled, expiresAtMs: row.expiresAtMs, isDry: row.isDry))
                if brokers[index].lease.returnRecalled() > 0 { write(&brokers[index], nowMs) }
            case 5:
                guard !brokers[index].isDead else { continue }
                if brokers[index].lease.returnFree(amount(&random)) > 0 {
                    write(&brokers[index], nowMs)
                }
            case 6:
                // The journal arrives, all of it or some.
                let count = Int.random(in: 0...brokers[index].journal.count, using: &random)
                for event in brokers[index].journal.prefix(count) {
                    costs += apply(event, brokers[index].instance, &wallet, nowMs)
                }
                brokers[index].journal.removeFirst(count)
            case 7:
                guard !brokers[index].isDead else { continue }
                if brokers[index].lease.keepReserve(amount(&random)) {
                    write(&brokers[index], nowMs)
                }
            case 8:
                let change = Bool.random(using: &random) ? amount(&random) : -amount(&random)
                do throws(LedgerError) {
                    try wallet.post(change, nowMs: nowMs)
                    paidIn += change.rawValue
                } catch {
                    // Refused: nothing moved.
                }
            default:
                brokers[index].isDead = true
                guard brokers[index].holds.isEmpty, brokers[index].journal.isEmpty else {
                    continue
                }
                _ = wallet.close(instance: brokers[index].instance, nowMs: nowMs)
                brokers[index] = Broker(instance: nextInstance)
                nextInstance += 1
            }
            #expect(wallet.available >= 0)
            #expect(wallet.leases.allSatisfy { $0.rest >= 0 })
            #expect(wallet.balance.rawValue == paidIn - costs)
            for broker in brokers {
                #expect(broker.lease.free >= 0)
                #expect(
                    broker.lease.held.rawValue == broker.holds.reduce(0) { $0 + $1.rawValue })
                let row = wallet.leases.first { $0.instance == broker.instance }
                #expect(broker.lease.granted <= row?.granted ?? 0)
            }
        }
        // All tasks end and all journals arrive: both halves agree.
        for index in brokers.indices {
            while let hold = brokers[index].holds.popLast() {
                brokers[index].lease.capture(cost: hold, held: hold)
                brokers[index].journal.append(.ended(hold))
            }
            write(&brokers[index], nowMs)
            for event in brokers[index].journal {
                costs += apply(event, brokers[index].instance, &wallet, nowMs)
            }
            let row = wallet.leases.first { $0.instance == brokers[index].instance }
            #expect(row?.spent == brokers[index].lease.spent)
            #expect(row?.returned == brokers[index].lease.returned)
        }
        #expect(wallet.balance.rawValue == paidIn - costs)
        for broker in brokers { _ = wallet.close(instance: broker.instance, nowMs: nowMs) }
        #expect(wallet.available == wallet.balance)
    }

    private func write(_ broker: inout Broker, _ nowMs: UInt64) {
        broker.journal.append(.lease(broker.lease.record(atUs: nowMs * 1_000)))
    }

    /// Applies a record, now and then twice; returns what the consumer paid.
    private func apply(
        _ event: Broker.Event, _ instance: UInt64, _ wallet: inout Wallet, _ nowMs: UInt64
    ) -> Int64 {
        switch event {
        case .lease(let record):
            wallet.apply(record, instance: instance, nowMs: nowMs)
            let once = wallet
            wallet.apply(record, instance: instance, nowMs: nowMs)
            #expect(wallet == once)
            return 0
        case .ended(let cost):
            let cover = wallet.spend(cost, instance: instance)
            // Nothing was admitted that its lease does not cover.
            #expect(cover == TaskCover(byConsumer: cost, byPlatform: 0))
            return cost.rawValue
        }
    }
}

extension MicroUSD {
    fileprivate static prefix func - (amount: MicroUSD) -> MicroUSD {
        MicroUSD(-amount.rawValue)
    }
}
