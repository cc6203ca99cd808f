package import SluiceRecordFormat
import SluiceWire

extension Store {
    /// Sets the operator's price for a model from a time on, in place of one from the same time.
    package func setPrice(
        _ price: DirectoryPrice, nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) {
        try write { (transaction) throws(StoreError) in
            let list = price.prices
            try transaction.execute(
                """
                INSERT INTO model_price (model, effective_from_ms, input, cached, output,
                    reasoning, is_removed)
                VALUES ($1, $2, $3, $4, $5, $6, $7)
                ON CONFLICT (model, effective_from_ms) DO UPDATE SET
                    input = excluded.input, cached = excluded.cached, output = excluded.output,
                    reasoning = excluded.reasoning, is_removed = excluded.is_removed
                """,
                [
                    .text(price.model.description), .integer(signed(price.effectiveFromMs)),
                    .integer(Int64(list.input)), .integer(Int64(list.cached)),
                    .integer(Int64(list.output)), .integer(Int64(list.reasoning)),
                    .integer(price.isRemoved ? 1 : 0),
                ])
            try transaction.addChange(.price(price))
            try transaction.audit(
                actor, price.isRemoved ? .removePrice : .setPrice, nowUs: nowUs)
        }
    }

    /// All prices ever set, by model and time.
    package func prices() throws(StoreError) -> [DirectoryPrice] {
        try read { (transaction) throws(StoreError) in try transaction.prices() }
    }

    /// Sets the platform's fee from a time on, in place of one from the same time.
    package func setFee(
        _ fee: DirectoryFee, nowUs: UInt64, by actor: Actor = .machine
    ) throws(StoreError) {
        try write { (transaction) throws(StoreError) in
            try transaction.execute(
                """
                INSERT INTO fee (effective_from_ms, basis_points) VALUES ($1, $2)
                ON CONFLICT (effective_from_ms)
                DO UPDATE SET basis_points = excluded.basis_points
                """,
                [.integer(signed(fee.effectiveFromMs)), .integer(Int64(fee.basisPoints))])
            try transaction.addChange(.fee(fee))
            try transaction.audit(
                actor, .setFee, amount: Int64(fee.basisPoints), nowUs: nowUs)
        }
    }

    /// All fees ever set, by time.
    package func fees() throws(StoreError) -> [DirectoryFee] {
        try read { (transaction) throws(StoreError) in try transaction.fees() }
    }
}

extension StoreTransaction {
    func prices() throws(StoreError) -> [DirectoryPrice] {
        let rows = try query(
            """
            SELECT model, effective_from_ms, input, cached, output, reasoning, is_removed
            FROM model_price ORDER BY model, effective_from_ms
            """)
        var prices: [DirectoryPrice] = []
        for row in rows {
            guard let model = ModelName(try row.text(0)) else { throw .damaged }
            prices.append(
                DirectoryPrice(
                    model: model,
                    prices: PriceList(
                        input: try row.unsigned32(2), cached: try row.unsigned32(3),
                        output: try row.unsigned32(4), reasoning: try row.unsigned32(5)),
                    effectiveFromMs: try row.unsigned(1), isRemoved: try row.integer(6) != 0))
        }
        return prices
    }

    func fees() throws(StoreError) -> [DirectoryFee] {
        let rows = try query(
            "SELECT effective_from_ms, basis_points FROM fee ORDER BY effective_from_ms")
        var fees: [DirectoryFee] = []
        for row in rows {
            let points = try row.unsigned32(1)
            guard points <= DirectoryFee.basisPointsMax else { throw .damaged }
            fees.append(DirectoryFee(basisPoints: points, effectiveFromMs: try row.unsigned(0)))
        }
        return fees
    }
}
