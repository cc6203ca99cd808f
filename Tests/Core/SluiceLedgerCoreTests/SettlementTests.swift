import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire
import Testing

@Suite struct SettlementTests {
    private func sum(_ postings: [Posting]) -> MicroUSD? {
        postings.reduce(MicroUSD.zero as MicroUSD?) { $0?.adding($1.amount) }
    }

    private let charge = TaskCharge(consumerCost: 77, supplierEarning: 70, platformFee: 7)

    @Test func aTaskPaysSupplierAndPlatform() throws {
        let postings = try Settlement.task(
            charge, cover: TaskCover(byConsumer: 77, byPlatform: 0), consumer: 1, supplier: 2)
        #expect(
            postings == [
                Posting(.consumer(1), -77), Posting(.supplier(2), 70), Posting(.platformFee, 7),
            ])
    }

    @Test func whatTheConsumerDoesNotCoverThePlatformLoses() throws {
        let postings = try Settlement.task(
            charge, cover: TaskCover(byConsumer: 50, byPlatform: 27), consumer: 1, supplier: 2)
        #expect(postings.contains(Posting(.platformLoss, -27)))
        #expect(sum(postings) == 0)
    }

    @Test func aTaskThatCostNothingPostsNothing() throws {
        let postings = try Settlement.task(
            .none, cover: TaskCover(byConsumer: 0, byPlatform: 0), consumer: 1, supplier: 0)
        #expect(postings.isEmpty)
    }

    @Test func unbalancedTasksAreRefused() {
        #expect(throws: LedgerError.unbalanced) {
            try Settlement.task(
                TaskCharge(consumerCost: 77, supplierEarning: 70, platformFee: 8),
                cover: TaskCover(byConsumer: 77, byPlatform: 0), consumer: 1, supplier: 2)
        }
        #expect(throws: LedgerError.unbalanced) {
            try Settlement.task(
                charge, cover: TaskCover(byConsumer: 76, byPlatform: 0), consumer: 1,
                supplier: 2)
        }
        #expect(throws: LedgerError.unbalanced) {
            try Settlement.task(
                charge, cover: TaskCover(byConsumer: 78, byPlatform: -1), consumer: 1,
                supplier: 2)
        }
    }

    @Test func anAccountTakesWhatTasksBringItUpToItsBound() {
        let most = Settlement.taskBalanceMax
        let debt = MicroUSD(-most.rawValue)
        func takes(_ account: LedgerAccount, _ amount: MicroUSD, at balance: MicroUSD) -> Bool {
            Settlement.admits(Posting(account, amount), at: balance)
        }
        #expect(takes(.consumer(1), debt, at: 0))
        #expect(!takes(.consumer(1), -1, at: debt))
        #expect(takes(.supplier(2), most, at: 0))
        #expect(!takes(.supplier(2), 1, at: most))
        // What it has beyond the bound, it may spend.
        #expect(takes(.consumer(1), debt, at: MicroUSD(.max)))
        // No task costs or brings anybody more than the bound, the platform included.
        for account in [LedgerAccount.consumer(1), .platformLoss, .platformFee, .supplier(0)] {
            for amount in [most.rawValue + 1, -most.rawValue - 1, .max, .min] {
                #expect(!takes(account, MicroUSD(amount), at: account == .consumer(1) ? most : 0))
            }
        }
        // Nobody's and the platform's go as far as 64 bits.
        #expect(takes(.supplier(0), 1, at: most))
        #expect(takes(.platformFee, most, at: most))
        for account in [LedgerAccount.supplier(0), .supplier(2), .platformFee, .consumer(1)] {
            #expect(!takes(account, 1, at: MicroUSD(.max)))
        }
        #expect(!takes(.platformLoss, -2, at: MicroUSD(-.max)))
    }

    @Test func moneyComesAndGoes() throws {
        var ledger = LedgerBalances()
        try ledger.post(Settlement.topUp(100, consumer: 1))
        try ledger.post(Settlement.refund(30, consumer: 1, available: 100))
        try ledger.post(Settlement.adjustment(5, consumer: 1, available: 70))
        try ledger.post(Settlement.adjustment(-15, consumer: 1, available: 75))
        #expect(ledger.balance(of: .consumer(1)) == 60)
        try ledger.post(Settlement.chargeback(100, consumer: 1, available: 60))
        #expect(ledger.balance(of: .consumer(1)) == 0)
        #expect(ledger.balance(of: .platformLoss) == -40)
        #expect(ledger.balance(of: .cash) == 30)
        #expect(ledger.sum == 0)
        #expect(ledger.negativeAccounts.isEmpty)
    }

    @Test func aPayoutIsPendingThenPaidOrBack() throws {
        var ledger = LedgerBalances()
        try ledger.post([Posting(.cash, -50), Posting(.supplier(2), 50)])
        try ledger.post(Settlement.payoutPending(40, supplier: 2, balance: 50))
        #expect(ledger.balance(of: .payoutClearing) == 40)
        try ledger.post(Settlement.payoutFailed(15, supplier: 2))
        try ledger.post(Settlement.payoutPaid(25))
        #expect(ledger.balance(of: .supplier(2)) == 25)
        #expect(ledger.balance(of: .payoutClearing) == 0)
        #expect(ledger.balance(of: .cash) == -25)
        #expect(throws: LedgerError.notAvailable(25)) {
            try Settlement.payoutPending(26, supplier: 2, balance: 25)
        }
    }

    @Test func nothingBelowNothingAndNothingAboveWhatIsThere() {
        for amount: MicroUSD in [0, -1, MicroUSD(.min)] {
            #expect(throws: LedgerError.notPositive) {
                try Settlement.topUp(amount, consumer: 1)
            }
            #expect(throws: LedgerError.notPositive) {
                try Settlement.refund(amount, consumer: 1, available: 5)
            }
            #expect(throws: LedgerError.notPositive) {
                try Settlement.chargeback(amount, consumer: 1, available: 5)
            }
            #expect(throws: LedgerError.notPositive) {
                try Settlement.payoutPending(amount, supplier: 1, balance: 5)
            }
        }
        #expect(throws: LedgerError.notAvailable(5)) {
            try Settlement.refund(6, consumer: 1, available: 5)
        }
        #expect(throws: LedgerError.notAvailable(5)) {
            try Settlement.adjustment(-6, consumer: 1, available: 5)
        }
        #expect(throws: LedgerError.overflow) {
            try Settlement.adjustment(MicroUSD(.min), consumer: 1, available: 5)
        }
        #expect(throws: LedgerError.notPositive) {
            try Settlement.adjustment(0, consumer: 1, available: 5)
        }
    }

    @Test func aBalanceThatDoesNotFitRefusesTheWholeEntry() throws {
        var ledger = LedgerBalances()
        try ledger.post(Settlement.topUp(MicroUSD(.max), consumer: 1))
        let before = ledger
        #expect(throws: LedgerError.overflow) {
            try ledger.post(Settlement.topUp(2, consumer: 1))
        }
        #expect(throws: LedgerError.unbalanced) { try ledger.post([Posting(.cash, 1)]) }
        #expect(ledger == before)
        // The largest loss there is can be borne, and the sum is still exact.
        try ledger.post(
            Settlement.chargeback(MicroUSD(.max), consumer: 1, available: MicroUSD(.max)))
        #expect(ledger.balance(of: .consumer(1)) == 0)
        #expect(ledger.sum == 0)
    }

    /// Any sequence of movements at any size keeps the sum at zero and the owed ones at 0 or more.
    @Test(arguments: 0..<200) func everySequenceSumsToZero(_: Int) {
        var random = SystemRandomNumberGenerator()
        var ledger = LedgerBalances()
        for _ in 0..<200 {
            let amount = MicroUSD(
                Int64.random(in: 1...(.max), using: &random) >> Int64.random(in: 0...62))
            let consumer = UInt64.random(in: 1...3)
            let supplier = UInt64.random(in: 4...5)
            let has = ledger.balance(of: .consumer(consumer))
            let earned = ledger.balance(of: .supplier(supplier))
            do throws(LedgerError) {
                switch Int.random(in: 0..<8) {
                case 0: try ledger.post(Settlement.topUp(amount, consumer: consumer))
                case 1:
                    try ledger.post(
                        Settlement.refund(amount, consumer: consumer, available: has))
                case 2:
                    try ledger.post(
                        Settlement.chargeback(amount, consumer: consumer, available: has))
                case 3:
                    let signed = Bool.random() ? amount : MicroUSD(-amount.rawValue)
                    try ledger.post(
                        Settlement.adjustment(signed, consumer: consumer, available: has))
                case 4:
                    try ledger.post(
                        Settlement.payoutPending(amount, supplier: supplier, balance: earned))
                case 5:
                    let clearing = ledger.balance(of: .payoutClearing)
                    try ledger.post(Settlement.payoutPaid(min(amount, clearing)))
                case 6:
                    let clearing = ledger.balance(of: .payoutClearing)
                    try ledger.post(
                        Settlement.payoutFailed(min(amount, clearing), supplier: supplier))
                default:
                    let earning = Int64.random(in: 0...amount.rawValue)
                    let charge = TaskCharge(
                        consumerCost: amount, supplierEarning: MicroUSD(earning),
                        platformFee: MicroUSD(amount.rawValue - earning))
                    var wallet = Wallet(balance: has)
                    let cover = wallet.spend(amount, instance: 9)
                    try ledger.post(
                        Settlement.task(
                            charge, cover: cover, consumer: consumer, supplier: supplier))
                }
            } catch {
                // Refused: nothing moved.
            }
            #expect(ledger.sum == 0)
            #expect(ledger.negativeAccounts.isEmpty)
        }
    }

    @Test func accountsHaveNames() {
        let accounts: [LedgerAccount] = [
            .consumer(7), .supplier(.max), .platformFee, .platformLoss, .cash, .payoutClearing,
            .adjustment,
        ]
        #expect(
            accounts.map(\.text) == [
                "consumer:7", "supplier:18446744073709551615", "platform_fee", "platform_loss",
                "cash", "payout_clearing", "adjustment",
            ])
        for account in accounts { #expect(LedgerAccount(text: account.text) == account) }
        for text in ["", "consumer", "consumer:", "consumer:x", "consumer:01", "a:1", "cash:1"] {
            #expect(LedgerAccount(text: text) == nil)
        }
    }

    @Test func agesCountBackFromNow() {
        #expect(Retention.cutoffUs(days: 1, nowUs: 86_400_000_005) == 5)
        #expect(Retention.cutoffUs(days: 90, nowUs: 5) == 0)
        #expect(Retention.cutoffUs(hours: .max, nowUs: 5) == 0)
    }
}
