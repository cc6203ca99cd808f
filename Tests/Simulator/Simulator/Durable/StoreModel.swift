import SluiceLedgerCore
import SluiceRecordFormat
import SluiceWire

/// The store of all nodes: records under unique keys, cursors, wallets and ledger, changed in
/// transactions that may be refused, or whose outcome the sidecar does not learn.
struct StoreModel {
    enum Outcome {
        case committed
        case refused
        /// The connection broke at the commit.
        case unknown(isCommitted: Bool)
    }

    private(set) var wallets: WalletModel
    private let sabotage: Sabotage?
    /// It takes nothing.
    var isDown = false

    init(accounts: [UInt64], sabotage: Sabotage?) {
        self.sabotage = sabotage
        wallets = WalletModel(accounts: accounts, sabotage: nil)
        wallets.takesEarlyEnds = true
    }

    /// Applies records in one transaction; false when the caller has to do it again.
    mutating func apply(
        _ records: [JournalRecord], node: Int, nowMs: UInt64, outcome: Outcome
    ) -> Bool {
        guard !isDown else { return false }
        switch outcome {
        case .refused: return false
        case .unknown(isCommitted: false): return false
        case .unknown(isCommitted: true):
            let cursors = wallets.cursors
            wallets.apply(records, node: node, nowMs: nowMs)
            if sabotage == .cursorForgotten { wallets.setCursors(cursors) }
            return false
        case .committed:
            wallets.apply(records, node: node, nowMs: nowMs)
            return true
        }
    }

    mutating func topUp(_ amount: MicroUSD, of account: UInt64, nowMs: UInt64) {
        wallets.topUp(amount, of: account, nowMs: nowMs)
    }

    /// Ends what a node's vanished instances left open, and closes their leases.
    mutating func closeVanished(
        node: Int, present: Set<UInt64>, acceptedBeforeUs: UInt64, nowMs: UInt64
    ) -> Int {
        guard !isDown else { return 0 }
        let lost = wallets.endLost(
            node: sabotage == .foreignTasksLost ? nil : node, present: present,
            acceptedBeforeUs: acceptedBeforeUs)
        wallets.closeVanished(node: node, present: present, nowMs: nowMs)
        return lost
    }
}
