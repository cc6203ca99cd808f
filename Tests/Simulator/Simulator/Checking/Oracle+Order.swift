import SluiceRecordFormat
import SluiceWire

/// [L2]: who waits is served in the order that the design promises (decision 50), as the journal
/// tells it: an ENDED says how long its task waited, to the microsecond.
extension Oracle {
    /// A task from its acceptance to its first dispatch, microseconds of the broker's clock.
    private struct Wait {
        let id: TaskID
        let account: UInt64
        let wish: Wish
        let acceptedUs: UInt64
        /// Nil where it ended without.
        let dispatchedUs: UInt64?
        let untilUs: UInt64
        /// The last moment that the broker can count as its deadline.
        let deadlineUs: UInt64

        /// Of one account: priority, then deadline. False where the deadlines are too close to
        /// tell how the broker counts them.
        func isBefore(_ other: Wait) -> Bool {
            if wish.priority != other.wish.priority { return wish.priority > other.wish.priority }
            return deadlineUs < other.wish.deadlineUs
        }
    }

    /// At no dispatch did a task of the same account and model wait that comes before.
    ///
    /// A task whose ASSIGN was lost with the supplier's connection goes before all others, and its
    /// record does not tell: who waited while one was lost is left out.
    func checkOrder() {
        let waits = self.waits.filter { wait in
            !supplierLossesUs.contains { $0 >= wait.acceptedUs && $0 <= wait.untilUs + 100_000 }
        }
        let longestUs = longestRunUs
        for later in waits {
            guard let atUs = later.dispatchedUs else { continue }
            for first in waits
            where first.acceptedUs < atUs && first.untilUs > atUs && isRival(first, of: later)
                && atUs + 2 * longestUs + 1_000_000 < first.wish.deadlineUs
            {
                count("order looked at")
                check(
                    !first.isBefore(later),
                    "[L2] \(later.id) was dispatched before \(first.id), which came before it")
            }
        }
    }

    private func isRival(_ first: Wait, of later: Wait) -> Bool {
        first.id != later.id && first.id.instance == later.id.instance
            && first.account == later.account && first.wish.model == later.wish.model
    }

    /// Among equal tasks accepted since then, no account goes ahead of another by more than
    /// `atMost` while both wait.
    func checkFairness(sinceUs: UInt64, atMost: Int) {
        let waits = self.waits.filter { $0.acceptedUs >= sinceUs }
        let accounts = Set(waits.map(\.account)).sorted()
        for (place, one) in accounts.enumerated() {
            for other in accounts[(place + 1)...] {
                let ahead = lead(waits.filter { $0.account == one || $0.account == other }, one)
                count("fairness looked at")
                check(
                    ahead <= atMost, "[L2] \(ahead) tasks between accounts \(one) and \(other)")
            }
        }
    }

    /// The most that one of two accounts went ahead of the other while both waited.
    private func lead(_ waits: [Wait], _ one: UInt64) -> Int {
        let ours = waits.filter { $0.account == one }
        let theirs = waits.filter { $0.account != one }
        guard let ourFirst = ours.map(\.acceptedUs).min(), let ourLast = ours.map(\.untilUs).max(),
            let theirFirst = theirs.map(\.acceptedUs).min(),
            let theirLast = theirs.map(\.untilUs).max()
        else { return 0 }
        let dispatched = waits.filter {
            guard let atUs = $0.dispatchedUs else { return false }
            return atUs > max(ourFirst, theirFirst) && atUs < min(ourLast, theirLast)
        }.sorted { ($0.untilUs, $0.id.counter) < ($1.untilUs, $1.id.counter) }
        var (ahead, least, most) = (0, 0, 0)
        for wait in dispatched {
            ahead += wait.account == one ? 1 : -1
            (least, most) = (min(least, ahead), max(most, ahead))
        }
        return most - least
    }

    private var waits: [Wait] {
        tasks.sorted { ($0.key.instance, $0.key.counter) < ($1.key.instance, $1.key.counter) }
            .compactMap { id, task in
                guard let acceptedUs = task.acceptedUs, let account = task.account,
                    let ended = task.ended, let wish = task.wish, wish.isPlain,
                    ended.status != .brokerLost, ended.status != .lost
                else { return nil }
                let isDispatched = ended.dispatches > 0
                let untilUs =
                    isDispatched ? acceptedUs + UInt64(ended.queueUs) : task.endedUs ?? acceptedUs
                return Wait(
                    id: id, account: account, wish: wish, acceptedUs: acceptedUs,
                    dispatchedUs: isDispatched ? untilUs : nil, untilUs: untilUs,
                    deadlineUs: acceptedUs + wish.deadlineMs * 1_000)
            }
    }

    private var longestRunUs: UInt64 {
        tasks.values.compactMap(\.ended).map {
            $0.durationUs - min($0.durationUs, UInt64($0.queueUs))
        }.max() ?? 0
    }
}
