/// Things to be done at their times, earliest first: a binary heap.
package struct DueQueue: Sendable {
    package struct Entry: Equatable, Sendable {
        package var ns: UInt64
        package var id: Int32

        package init(ns: UInt64, id: Int32) {
            self.ns = ns
            self.id = id
        }
    }

    private var heap: [Entry] = []

    package init() {}

    /// When the first is due; nil when there is nothing.
    package var firstNs: UInt64? { heap.first?.ns }

    package mutating func removeAll() { heap.removeAll(keepingCapacity: true) }

    package mutating func push(_ entry: Entry) {
        heap.append(entry)
        var place = heap.count - 1
        while place > 0 {
            let parent = (place - 1) / 2
            guard heap[place].ns < heap[parent].ns else { return }
            heap.swapAt(place, parent)
            place = parent
        }
    }

    /// Takes the first if it is due at `nowNs`.
    package mutating func pop(dueAt nowNs: UInt64) -> Entry? {
        guard let first = heap.first, first.ns <= nowNs, let last = heap.popLast() else {
            return nil
        }
        guard !heap.isEmpty else { return first }
        var place = 0
        while true {
            var child = 2 * place + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1].ns < heap[child].ns { child += 1 }
            guard heap[child].ns < last.ns else { break }
            heap[place] = heap[child]
            place = child
        }
        heap[place] = last
        return first
    }
}
