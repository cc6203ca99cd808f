/// The tasks that the mock suppliers of one thread work on. Pure: the time is an argument.
package struct SupplierTasks: Sendable {
    package struct Task {
        /// The supplier connection, and what it calls the task.
        package var connection: Int32 = 0
        package var key: Int32 = 0
        package var isOpen = false
        /// Stands in a ring or in the queue of what is due.
        package var isListed = false
        package var left: UInt32 = 0
        package var sent: UInt32 = 0
        package var tokenBytes: UInt32 = 0
        package var periodNs: UInt64 = 0
        /// When the first token is meant to be sent.
        package var startNs: UInt64 = 0

        package var isPaced: Bool { periodNs > 0 }
        /// When the next token is meant to be sent.
        package var dueNs: UInt64 { startNs + periodNs * UInt64(sent) }
    }

    package var tasks: [Task] = []
    private var free: [Int32] = []
    /// Tasks that have something to send since the caller last emptied it.
    package var woken: [Int32] = []
    /// From now on every task ends with its next token.
    package var isDraining = false

    package var tokensSent: UInt64 = 0
    package private(set) var openCount = 0
    package private(set) var badFrames: UInt64 = 0

    package init() {}

    /// A prompt is complete; the number of its task, which goes to `woken`.
    package mutating func open(
        connection: Int, key: Int, order: TaskOrder, nowNs: UInt64
    ) -> Int32 {
        let task = Task(
            connection: Int32(connection), key: Int32(key), isOpen: true, isListed: true,
            left: max(1, order.tokens), tokenBytes: order.tokenBytes,
            periodNs: UInt64(order.periodUs) * 1_000, startNs: nowNs)
        openCount += 1
        let number: Int32
        if let reused = free.popLast() {
            tasks[Int(reused)] = task
            number = reused
        } else {
            tasks.append(task)
            number = Int32(tasks.count - 1)
        }
        woken.append(number)
        return number
    }

    /// There is credit again.
    package mutating func credited(_ number: Int32) {
        guard tasks[Int(number)].isOpen, !tasks[Int(number)].isListed else { return }
        tasks[Int(number)].isListed = true
        woken.append(number)
    }

    /// One more token is sent; whether it was the last.
    package mutating func sentToken(_ number: Int32) -> Bool {
        let index = Int(number)
        tokensSent += 1
        tasks[index].sent += 1
        tasks[index].left = isDraining ? 0 : tasks[index].left - 1
        return tasks[index].left == 0
    }

    package mutating func close(_ number: Int32) {
        tasks[Int(number)].isOpen = false
        free.append(number)
        openCount -= 1
    }

    package mutating func badFrame() { badFrames += 1 }
}

/// Tasks of one connection that take turns.
package struct TaskRing {
    private var items: [Int32] = [Int32](repeating: 0, count: 64)
    private var head = 0
    package private(set) var count = 0

    package var isEmpty: Bool { count == 0 }

    package mutating func push(_ item: Int32) {
        if count == items.count {
            items = Array(items[head...] + items[..<head]) + [Int32](repeating: 0, count: count)
            head = 0
        }
        items[(head + count) & (items.count - 1)] = item
        count += 1
    }

    package mutating func pop() -> Int32? {
        guard count > 0 else { return nil }
        defer {
            head = (head + 1) & (items.count - 1)
            count -= 1
        }
        return items[head]
    }

    package mutating func removeAll() {
        head = 0
        count = 0
    }
}
