import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

extension RecordBatch {
    mutating func settle(
        _ transaction: any StoreTransaction
    ) throws(StoreError) {
        var books = AccountBooks(node: node)
        var accounts: Set<UInt64> = []
        var suppliers: Set<UInt64> = []
        for event in money {
            switch event {
            case .ended(let index):
                let record = tasks.ended[index]
                guard record.charge != .none, let entry = tasks.entry(ofEnd: index) else {
                    continue
                }
                accounts.insert(entry.account)
                suppliers.insert(record.supplier)
            case .lease(let index):
                accounts.insert(leases[index].record.account)
            }
        }
        guard !accounts.isEmpty else { return }
        try books.load(accounts, suppliers: suppliers, transaction)
        // Of the batch's own, those whose turn is still to come or of which nothing was posted;
        // asked of repeats alone, which are rare.
        let hasRepeats = tasks.entries.contains { $0.isRepeat }
        var unsettled: Set<TaskID> = []
        if hasRepeats {
            for (end, record) in tasks.ended.enumerated() where tasks.places[end] >= 0 {
                unsettled.insert(record.task)
            }
        }
        for event in money {
            switch event {
            case .ended(let index):
                let record = tasks.ended[index]
                if hasRepeats { unsettled.remove(record.task) }
                guard record.charge != .none, let entry = tasks.entry(ofEnd: index) else {
                    continue
                }
                let owed =
                    entry.isRepeat && record.charge.isPostable
                    ? try owed(record, transaction, unsettled) : record.charge.consumerCost
                let isPosted = try books.settle(
                    record, account: entry.account, owed: owed,
                    atUs: entry.acceptedAtUs &+ record.durationUs)
                guard !isPosted else { continue }
                counts.unposted += 1
                if hasRepeats { unsettled.insert(record.task) }
            case .lease(let index):
                let (instance, lease) = leases[index]
                books.apply(lease, instance: instance, nowMs: max(nowUs, lease.atUs) / 1_000)
            }
        }
        counts.hasChanges = try books.save(transaction)
    }
}
