import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct LeaseTests {
    private func record(
        wanted: MicroUSD, returned: MicroUSD = 0, reserve: MicroUSD = 0
    ) -> LeaseRecord {
        LeaseRecord(
            account: 1, wanted: wanted, returned: returned, spent: 0, held: 0, atUs: 0,
            reserve: reserve)
    }

    private func granted(_ amount: MicroUSD, expiresAtMs: UInt64 = 1_000) -> BrokerLease {
        var lease = BrokerLease(account: 1)
        lease.apply(
            DirectoryLease(account: 1, instance: 1, granted: amount, expiresAtMs: expiresAtMs))
        return lease
    }

    // MARK: The broker's half

    @Test func aNewLeaseHoldsNothing() {
        var lease = BrokerLease(account: 1)
        #expect(lease.hold(1, nowMs: 0) == false)
        #expect(lease.hold(0, nowMs: 0) == false)
        #expect(lease.ask(missing: 1, recentCost: 0) == true)
        #expect(lease.wanted == 10_000)
        #expect(lease.ask(missing: 9_000, recentCost: 0) == false)
        #expect(lease.ask(missing: 20_000, recentCost: 30_000) == true)
        #expect(lease.wanted == 60_000)
    }

    @Test func aHoldIsAllOrNothingAndEndsAtExpiry() {
        var lease = granted(100)
        #expect(lease.hold(101, nowMs: 0) == false)
        #expect(lease.hold(100, nowMs: 999) == true)
        #expect(lease.free == 0)
        lease.release(40)
        #expect(lease.hold(40, nowMs: 999) == true)
        lease.release(40)
        #expect(lease.hold(1, nowMs: 1_000) == false)
    }

    @Test func whatATaskDoesNotUseIsFreeAgain() {
        var lease = granted(100)
        #expect(lease.hold(60, nowMs: 0) == true)
        lease.capture(cost: 25, held: 60)
        #expect(lease.spent == 25)
        #expect(lease.held == 0)
        #expect(lease.free == 75)
    }

    @Test func onlyWhatIsFreeGoesBack() {
        var lease = granted(100)
        #expect(lease.hold(60, nowMs: 0) == true)
        lease.apply(
            DirectoryLease(
                account: 1, instance: 1, granted: 100, recalled: 100, expiresAtMs: 1_000))
        #expect(lease.returnRecalled() == 40)
        #expect(lease.returnRecalled() == 0)
        #expect(lease.owed == 60)
        lease.capture(cost: 10, held: 60)
        #expect(lease.returnRecalled() == 50)
        #expect(lease.record(atUs: 3).returned == 90)
        #expect(lease.free == 0)
    }

    @Test func grantsNeverShrinkAndOverflowIsSaturated() {
        var lease = granted(100)
        lease.apply(DirectoryLease(account: 1, instance: 1, granted: 50, expiresAtMs: 1_000))
        #expect(lease.granted == 100)
        #expect(lease.ask(missing: MicroUSD(.max), recentCost: MicroUSD(.max)) == true)
        #expect(lease.wanted == MicroUSD(.max))
        lease.withdrawAsk()
        #expect(lease.wanted == 100)
        let most = granted(MicroUSD(.max))
        #expect(most.free == MicroUSD(.max))
    }

    @Test func renewalIsDueAtHalfOfLifeWhereThereIsSomethingToKeep() {
        let lease = granted(100, expiresAtMs: BrokerLease.lifetimeMs)
        #expect(!lease.needsRenewal(nowMs: BrokerLease.lifetimeMs / 2 - 1))
        #expect(lease.needsRenewal(nowMs: BrokerLease.lifetimeMs / 2))
        #expect(!BrokerLease(account: 1).needsRenewal(nowMs: .max / 2))
        var spent = lease
        #expect(spent.hold(100, nowMs: 0) == true)
        spent.capture(cost: 100, held: 100)
        #expect(!spent.needsRenewal(nowMs: BrokerLease.lifetimeMs))
    }

    @Test func anAccountInUseKeepsFiveMinutesOfWhatItSpends() {
        #expect(BrokerLease.reserveTarget(recentCost: 100) == 3_000)
        #expect(BrokerLease.reserveTarget(recentCost: MicroUSD(.max)) == MicroUSD(.max))
        var lease = granted(3_000)
        #expect(lease.keepReserve(3_000) == false)
        #expect(lease.record(atUs: 0).reserve == 0)
        // A quarter may be missing before it is asked for.
        #expect(lease.hold(750, nowMs: 0) == true)
        #expect(lease.keepReserve(3_000) == false)
        #expect(lease.hold(1, nowMs: 0) == true)
        #expect(lease.keepReserve(3_000) == true)
        #expect(lease.record(atUs: 0).reserve == 3_751)
        #expect(lease.record(atUs: 0).wanted == 0)
        // What is spent is not there any more; what nobody uses needs none.
        lease.capture(cost: 500, held: 751)
        #expect(lease.keepReserve(0) == false)
        #expect(lease.record(atUs: 0).reserve == 0)
        #expect(lease.keepReserve(MicroUSD(.max)) == true)
        #expect(lease.record(atUs: 0).reserve == MicroUSD(.max))
    }

    @Test func ourOwnFaultsTrap() async {
        await #expect(processExitsWith: .failure) {
            var lease = BrokerLease(account: 1)
            lease.release(1)
        }
        await #expect(processExitsWith: .failure) {
            var lease = BrokerLease(account: 1)
            lease.capture(cost: 1, held: 0)
        }
        await #expect(processExitsWith: .failure) {
            var lease = WalletLease(instance: 1)
            lease.granted = 10
            _ = Wallet(balance: 9, leases: [lease])
        }
    }

    // MARK: The wallet's half

    @Test func aReserveTakesWhatIsLeftAndNothingFromOthers() {
        var wallet = Wallet(balance: 1_000)
        wallet.apply(record(wanted: 100, reserve: 700), instance: 1, nowMs: 0)
        #expect(wallet.leases[0].granted == 700)
        let once = wallet
        wallet.apply(record(wanted: 100, reserve: 700), instance: 1, nowMs: 0)
        #expect(wallet == once)
        // Of what is left, and no more than an equal part of the balance.
        wallet.apply(record(wanted: 0, reserve: 900), instance: 2, nowMs: 0)
        #expect(wallet.leases[1].granted == 300)
        #expect(wallet.available == 0)
        #expect(wallet.leases.allSatisfy { $0.recalled == 0 && !$0.isDry })
        wallet.apply(record(wanted: 0, reserve: 5_000), instance: 1, nowMs: 0)
        #expect(wallet.leases[0].granted == 700)
    }

    @Test func aReserveWaitsForThoseThatNeedMoney() {
        var wallet = Wallet(balance: 1_000)
        wallet.apply(record(wanted: 1_000), instance: 1, nowMs: 0)
        wallet.apply(record(wanted: 400), instance: 2, nowMs: 0)
        #expect(wallet.leases[0].recalled == 1_000)
        // It returns what is recalled and would like to have it back: the other one is first.
        wallet.apply(
            record(wanted: 1_000, returned: 300, reserve: 2_000), instance: 1, nowMs: 0)
        #expect(wallet.leases.map(\.granted) == [1_000, 300])
        wallet.apply(
            record(wanted: 1_000, returned: 1_000, reserve: 2_000), instance: 1, nowMs: 0)
        #expect(wallet.leases.map(\.granted) == [1_500, 400])
        #expect(wallet.leases.map(\.rest) == [500, 400])
        #expect(wallet.available == 100)
    }

    @Test func grantsWhatIsThereAndARepeatChangesNothing() {
        var wallet = Wallet(balance: 100)
        wallet.apply(record(wanted: 60), instance: 1, nowMs: 5)
        #expect(wallet.leases[0].granted == 60)
        #expect(wallet.leases[0].expiresAtMs == 5 + BrokerLease.lifetimeMs)
        #expect(wallet.available == 40)
        let once = wallet
        wallet.apply(record(wanted: 60), instance: 1, nowMs: 5)
        #expect(wallet == once)
        wallet.apply(record(wanted: 60), instance: 1, nowMs: 9)
        #expect(wallet.leases[0].expiresAtMs == 9 + BrokerLease.lifetimeMs)
        #expect(wallet.balance == 100)
    }

    @Test func whoIsShortGetsTheRestAndRecallsFromOthers() {
        var wallet = Wallet(balance: 100)
        wallet.apply(record(wanted: 80), instance: 1, nowMs: 0)
        wallet.apply(record(wanted: 50), instance: 2, nowMs: 0)
        #expect(wallet.leases.map(\.granted) == [80, 20])
        #expect(wallet.leases[0].recalled == 80)
        #expect(!wallet.leases[1].isDry)
        // The first gives what is free.
        wallet.apply(record(wanted: 80, returned: 70), instance: 1, nowMs: 0)
        #expect(wallet.leases.map(\.granted) == [80, 50])
        #expect(wallet.available == 40)
        // Nobody waits: nothing is owed any more.
        #expect(wallet.leases.allSatisfy { $0.recalled == $0.returned })
    }

    @Test func dryIsWhereNobodyHasAnything() throws {
        var wallet = Wallet(balance: 100)
        wallet.apply(record(wanted: 100), instance: 1, nowMs: 0)
        wallet.apply(record(wanted: 10), instance: 2, nowMs: 0)
        #expect(wallet.leases[1].isDry == false)
        #expect(wallet.spend(100, instance: 1) == TaskCover(byConsumer: 100, byPlatform: 0))
        wallet.apply(record(wanted: 10), instance: 2, nowMs: 0)
        #expect(wallet.leases[1].isDry)
        try wallet.post(7, nowMs: 0)
        #expect(wallet.leases[1].granted == 7)
        #expect(wallet.leases[1].isDry)
        try wallet.post(7, nowMs: 0)
        #expect(wallet.leases[1].granted == 10)
        #expect(!wallet.leases[1].isDry)
        #expect(wallet.available == 4)
    }

    @Test func onlyWhatIsNotLeasedGoesElsewhere() throws {
        var wallet = Wallet(balance: 100)
        wallet.apply(record(wanted: 70), instance: 1, nowMs: 0)
        #expect(throws: LedgerError.notAvailable(30)) { try wallet.post(-31, nowMs: 0) }
        #expect(throws: LedgerError.self) { try wallet.post(MicroUSD(.min), nowMs: 0) }
        #expect(throws: LedgerError.overflow) { try wallet.post(MicroUSD(.max), nowMs: 0) }
        try wallet.post(-30, nowMs: 0)
        #expect(wallet.balance == 70)
    }

    @Test func aLateClaimGoesToTheWalletThenToThePlatform() {
        var wallet = Wallet(balance: 100)
        wallet.apply(record(wanted: 70), instance: 1, nowMs: 0)
        let expiry = BrokerLease.lifetimeMs
        #expect(wallet.closeExpired(nowMs: expiry + Wallet.graceMs - 1) == [])
        #expect(wallet.closeExpired(nowMs: expiry + Wallet.graceMs) == [1])
        #expect(wallet.available == 100)
        #expect(wallet.spend(30, instance: 1) == TaskCover(byConsumer: 30, byPlatform: 0))
        wallet.apply(record(wanted: 60), instance: 2, nowMs: 0)
        #expect(wallet.spend(30, instance: 1) == TaskCover(byConsumer: 10, byPlatform: 20))
        #expect(wallet.balance == 60)
        #expect(wallet.leases.map(\.rest) == [60])
    }

    @Test func whoOutlivedItsLeaseBeginsAgainWithWhatIsSettled() {
        var wallet = Wallet(balance: 100)
        wallet.apply(record(wanted: 70), instance: 1, nowMs: 0)
        _ = wallet.spend(30, instance: 1)
        #expect(wallet.closeExpired(nowMs: BrokerLease.lifetimeMs + Wallet.graceMs) == [1])
        // It spent 20 more meanwhile, gave 5 back, and asks for 80 in all.
        _ = wallet.spend(20, instance: 1)
        let late = LeaseRecord(account: 1, wanted: 80, returned: 5, spent: 50, held: 0, atUs: 0)
        wallet.apply(late, instance: 1, nowMs: 0)
        #expect(wallet.leases.map(\.granted) == [80])
        #expect(wallet.leases.map(\.rest) == [25])
        #expect(wallet.balance == 50 && wallet.available == 25)
    }

    @Test func sharesNeverSumToMoreThanTheWhole() {
        for instances in [1, 2, 3, 7, 1_000, 65_536] {
            let share = Wallet.share(amongInstances: instances)
            #expect(share >= 1)
            #expect(Int(share) * instances <= Int(DirectoryLease.shareMax))
        }
    }
}
