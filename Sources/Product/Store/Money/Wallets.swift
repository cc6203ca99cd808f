import SluiceLedgerCore
package import SluiceWire

extension Store {
    /// What a consumer has.
    package func wallet(_ account: UInt64) throws(StoreError) -> Wallet {
        try read { (transaction) throws(StoreError) in
            guard try transaction.account(account) != nil else { throw .unknownAccount }
            return try transaction.wallet(account)
        }
    }

    /// The newest events of a wallet, oldest of them first.
    package func walletEvents(
        _ account: UInt64, last count: Int
    ) throws(StoreError) -> [WalletEvent] {
        try read { (transaction) throws(StoreError) in
            let rows = try transaction.query(
                """
                SELECT id, account, kind, amount, reference, at_us FROM wallet_event
                WHERE account = $1 ORDER BY id DESC LIMIT $2
                """, [.integer(signed(account)), .integer(Int64(max(0, count)))])
            var events: [WalletEvent] = []
            for row in rows.reversed() { events.append(try WalletEvent(row)) }
            return events
        }
    }

    /// Money came in: cash → consumer. `amount` is above 0. The same reference again changes
    /// nothing; with another account or amount it is `referenceUsed`.
    package func topUp(
        _ account: UInt64, _ amount: MicroUSD, reference: String, nowUs: UInt64,
        by actor: Actor = .machine
    ) throws(StoreError) -> WalletChange {
        try changeWallet(.topUp, account, amount, reference, nowUs, actor)
    }

    /// Money that was not used goes back: consumer → cash, `amount` of what is available.
    package func refund(
        _ account: UInt64, _ amount: MicroUSD, reference: String, nowUs: UInt64,
        by actor: Actor = .machine
    ) throws(StoreError) -> WalletChange {
        try changeWallet(.refund, account, amount, reference, nowUs, actor)
    }

    /// A payment was taken back by whoever had made it: what is available of `amount` comes from
    /// the consumer, the rest is the platform's loss.
    package func chargeback(
        _ account: UInt64, _ amount: MicroUSD, reference: String, nowUs: UInt64,
        by actor: Actor = .machine
    ) throws(StoreError) -> WalletChange {
        try changeWallet(.chargeback, account, amount, reference, nowUs, actor)
    }

    /// The operator's correction, up or down, never to below 0.
    package func adjust(
        _ account: UInt64, _ amount: MicroUSD, reference: String, nowUs: UInt64,
        by actor: Actor = .machine
    ) throws(StoreError) -> WalletChange {
        try changeWallet(.adjustment, account, amount, reference, nowUs, actor)
    }

    private func changeWallet(
        _ kind: WalletEventKind, _ account: UInt64, _ amount: MicroUSD, _ reference: String,
        _ nowUs: UInt64, _ actor: Actor
    ) throws(StoreError) -> WalletChange {
        guard kind == .adjustment ? amount != 0 : amount > 0, Account.isValidLabel(reference)
        else { throw .invalidValue }
        return try write { (transaction) throws(StoreError) in
            guard try transaction.account(account) != nil else { throw .unknownAccount }
            if let known = try transaction.walletEvent(kind, reference: reference) {
                guard known.account == account, known.amount == amount else {
                    throw .referenceUsed
                }
                return WalletChange(
                    event: known, isRepeat: true, wallet: try transaction.wallet(account))
            }
            let event = try transaction.insertWalletEvent(
                kind, account, amount, reference, nowUs)
            var books = AccountBooks(node: 0)
            try books.load([account], transaction)
            let available =
                if let free = books.available(account) {
                    free
                } else {
                    try transaction.wallet(account).balance
                }
            let parts = try ruled { () throws(LedgerError) in
                try kind.postings(amount, account: account, available: max(0, available))
            }
            for part in parts where part.account == .consumer(account) {
                try books.change(account, by: part.amount, nowMs: nowUs / 1_000)
            }
            try books.post(.walletEvent(event.id), parts, atUs: nowUs)
            _ = try books.save(transaction)
            try transaction.audit(
                actor, kind.action, subject: account, amount: amount.rawValue, nowUs: nowUs)
            return WalletChange(
                event: event, isRepeat: false, wallet: try transaction.wallet(account))
        }
    }
}

extension WalletEventKind {
    fileprivate var action: AuditAction {
        switch self {
        case .topUp: .topUp
        case .refund: .refund
        case .chargeback: .chargeback
        case .adjustment: .adjustment
        }
    }

    /// What is posted for it.
    fileprivate func postings(
        _ amount: MicroUSD, account: UInt64, available: MicroUSD
    ) throws(LedgerError) -> [Posting] {
        switch self {
        case .topUp:
            try Settlement.topUp(amount, consumer: account)
        case .refund:
            try Settlement.refund(amount, consumer: account, available: available)
        case .chargeback:
            try Settlement.chargeback(amount, consumer: account, available: available)
        case .adjustment:
            try Settlement.adjustment(amount, consumer: account, available: available)
        }
    }
}

extension WalletEvent {
    fileprivate init(_ row: SQLRow) throws(StoreError) {
        guard let kind = WalletEventKind(rawValue: try row.integer(2)) else { throw .damaged }
        self.init(
            id: try row.unsigned(0), account: try row.unsigned(1), kind: kind,
            amount: MicroUSD(try row.integer(3)), reference: try row.text(4),
            atUs: try row.unsigned(5))
    }
}

extension StoreTransaction {
    func balance(_ account: LedgerAccount) throws(StoreError) -> Int64 {
        let rows = try query(
            "SELECT amount FROM balance WHERE kind = $1 AND owner = $2",
            [.integer(account.kind), .integer(signed(account.owner))])
        return try rows.first?.integer(0) ?? 0
    }

    func wallet(_ account: UInt64) throws(StoreError) -> Wallet {
        let rows = try query(
            """
            SELECT CAST(coalesce(sum(granted - spent - returned), 0) AS \(dialect.integer))
            FROM lease WHERE account = $1 AND is_closed = 0
            """, [.integer(signed(account))])
        guard let row = rows.first else { throw .damaged }
        return Wallet(
            account: account, balance: MicroUSD(try balance(.consumer(account))),
            leased: MicroUSD(try row.integer(0)))
    }

    fileprivate func walletEvent(
        _ kind: WalletEventKind, reference: String
    ) throws(StoreError) -> WalletEvent? {
        let rows = try query(
            """
            SELECT id, account, kind, amount, reference, at_us FROM wallet_event
            WHERE kind = $1 AND reference = $2
            """, [.integer(kind.rawValue), .text(reference)])
        guard let row = rows.first else { return nil }
        return try WalletEvent(row)
    }

    fileprivate func insertWalletEvent(
        _ kind: WalletEventKind, _ account: UInt64, _ amount: MicroUSD, _ reference: String,
        _ nowUs: UInt64
    ) throws(StoreError) -> WalletEvent {
        let rows = try query(
            """
            INSERT INTO wallet_event (account, kind, amount, reference, at_us)
            VALUES ($1, $2, $3, $4, $5) RETURNING id
            """,
            [
                .integer(signed(account)), .integer(kind.rawValue), .integer(amount.rawValue),
                .text(reference), .integer(signed(nowUs)),
            ])
        guard let row = rows.first else { throw .damaged }
        return WalletEvent(
            id: try row.unsigned(0), account: account, kind: kind, amount: amount,
            reference: reference, atUs: nowUs)
    }
}
