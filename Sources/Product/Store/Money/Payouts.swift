import SluiceLedgerCore
package import SluiceWire

extension Store {
    /// What a supplier's account has earned and was not paid yet.
    package func earned(_ account: UInt64) throws(StoreError) -> MicroUSD {
        try read { (transaction) throws(StoreError) in
            MicroUSD(try transaction.balance(.supplier(account)))
        }
    }

    /// Sends what a supplier has earned on its way: supplier → payout_clearing. `amount` is above
    /// 0 and at most what was earned. The same key again gives the same payout; with another
    /// account or amount it is `referenceUsed`.
    package func requestPayout(
        _ account: UInt64, _ amount: MicroUSD, idempotencyKey: String, nowUs: UInt64,
        by actor: Actor = .machine
    ) throws(StoreError) -> Payout {
        guard amount > 0, Account.isValidLabel(idempotencyKey) else { throw .invalidValue }
        return try write { (transaction) throws(StoreError) in
            guard try transaction.account(account) != nil else { throw .unknownAccount }
            let known = try transaction.payouts(
                "idempotency_key = $1", [.text(idempotencyKey)])
            if let known = known.first {
                guard known.account == account, known.amount == amount else {
                    throw .referenceUsed
                }
                return known
            }
            let earned = MicroUSD(try transaction.balance(.supplier(account)))
            let postings = try ruled { () throws(LedgerError) in
                try Settlement.payoutPending(amount, supplier: account, balance: earned)
            }
            let rows = try transaction.query(
                """
                INSERT INTO payout (account, amount, state, idempotency_key, requested_at_us)
                VALUES ($1, $2, 1, $3, $4) RETURNING id
                """,
                [
                    .integer(signed(account)), .integer(amount.rawValue), .text(idempotencyKey),
                    .integer(signed(nowUs)),
                ])
            guard let row = rows.first else { throw .damaged }
            let id = try row.unsigned(0)
            var ledger = LedgerWriter()
            try ledger.post(.payoutPending(id), postings, atUs: nowUs)
            try ledger.save(transaction)
            try transaction.audit(
                actor, .requestPayout, subject: id, amount: amount.rawValue, nowUs: nowUs)
            return Payout(
                id: id, account: account, amount: amount, state: .pending,
                idempotencyKey: idempotencyKey, requestedAtUs: nowUs)
        }
    }

    /// The money arrived (payout_clearing → cash), or did not (back to the supplier). The same
    /// word again changes nothing; the other one is `payoutSettled`.
    package func settlePayout(
        _ id: UInt64, isPaid: Bool, nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) -> Payout {
        let state: PayoutState = isPaid ? .paid : .failed
        return try write { (transaction) throws(StoreError) in
            guard
                var payout = try transaction.payouts("id = $1", [.integer(signed(id))]).first
            else { throw .unknownPayout }
            guard payout.state == .pending else {
                guard payout.state == state else { throw .payoutSettled }
                return payout
            }
            try transaction.execute(
                "UPDATE payout SET state = $1, settled_at_us = $2 WHERE id = $3",
                [.integer(state.rawValue), .integer(signed(nowUs)), .integer(signed(id))])
            let amount = payout.amount
            let postings = try ruled { () throws(LedgerError) in
                isPaid
                    ? try Settlement.payoutPaid(amount)
                    : try Settlement.payoutFailed(amount, supplier: payout.account)
            }
            var ledger = LedgerWriter()
            try ledger.post(
                isPaid ? .payoutPaid(id) : .payoutFailed(id), postings, atUs: nowUs)
            try ledger.save(transaction)
            try transaction.audit(
                actor, isPaid ? .payoutPaid : .payoutFailed, subject: id, amount: amount.rawValue,
                nowUs: nowUs)
            payout.state = state
            payout.settledAtUs = nowUs
            return payout
        }
    }

    /// All payouts, or those of one account, oldest first.
    package func payouts(_ account: UInt64? = nil) throws(StoreError) -> [Payout] {
        try read { (transaction) throws(StoreError) in
            guard let account else { return try transaction.payouts("id > $1", [.integer(0)]) }
            return try transaction.payouts("account = $1", [.integer(signed(account))])
        }
    }
}

extension StoreTransaction {
    fileprivate func payouts(
        _ condition: String, _ values: [SQLValue]
    ) throws(StoreError) -> [Payout] {
        let rows = try query(
            """
            SELECT id, account, amount, state, idempotency_key, requested_at_us, settled_at_us
            FROM payout WHERE \(condition) ORDER BY id
            """, values)
        var payouts: [Payout] = []
        for row in rows {
            guard let state = PayoutState(rawValue: try row.integer(3)) else { throw .damaged }
            payouts.append(
                Payout(
                    id: try row.unsigned(0), account: try row.unsigned(1),
                    amount: MicroUSD(try row.integer(2)), state: state,
                    idempotencyKey: try row.text(4), requestedAtUs: try row.unsigned(5),
                    settledAtUs: try row.optionalInteger(6).map { unsigned($0) }))
        }
        return payouts
    }
}
