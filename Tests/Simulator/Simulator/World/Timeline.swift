/// What will happen, by time; at the same time in the order in which it was added.
struct Timeline<Event> {
    struct Timed {
        let atUs: UInt64
        let order: UInt64
        let event: Event
    }

    private var heap: [Timed] = []
    private var order: UInt64 = 0

    /// What happens next.
    var first: Timed? { heap.first }

    mutating func add(_ event: Event, atUs: UInt64) {
        order += 1
        heap.append(Timed(atUs: atUs, order: order, event: event))
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard isBefore(child, parent) else { break }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    mutating func removeFirst() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < heap.count && isBefore(child, least) { least = child }
            guard least != parent else { return }
            heap.swapAt(parent, least)
            parent = least
        }
    }

    private func isBefore(_ left: Int, _ right: Int) -> Bool {
        (heap[left].atUs, heap[left].order) < (heap[right].atUs, heap[right].order)
    }
}
