public import Synchronization

/// A bounded queue from one thread to one other, without locks.
///
/// The producer's thread alone calls `push` and `publish`, the consumer's alone `pop` and `release`.
/// What was pushed is seen after `publish`: once for a batch. A place is free again after `release`.
/// Neither side ever waits.
@safe @usableFromInline
package final class SPSCQueue<Element: Sendable>: @unchecked Sendable {
    /// Elements that fit: a power of two.
    @usableFromInline package let capacity: Int
    /// SAFETY: `capacity` places, from `init` to `deinit`. Places `consumed..<published` hold
    /// elements of the consumer, those up to `pushed` of the producer.
    @usableFromInline let places: UnsafeMutablePointer<Element>

    // Each position has lines of its own: the two threads do not share any that they write.
    private let padding0 = Line()
    /// Elements that the consumer may see.
    @usableFromInline let published = Atomic<Int>(0)
    private let padding1 = Line()
    /// Elements whose places are free again.
    @usableFromInline let released = Atomic<Int>(0)
    private let padding2 = Line()
    /// The producer's own: pushed so far, and `released` as it last looked.
    @usableFromInline var pushed = 0
    @usableFromInline var releasedSeen = 0
    private let padding3 = Line()
    /// The consumer's own: popped so far, and `published` as it last looked.
    @usableFromInline var popped = 0
    @usableFromInline var publishedSeen = 0
    private let padding4 = Line()

    private struct Line {
        var words = InlineArray<16, UInt64>(repeating: 0)
    }

    /// `capacity` is a power of two.
    @inlinable
    package init(capacity: Int) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0)
        self.capacity = capacity
        unsafe places = .allocate(capacity: capacity)
    }

    @inlinable
    deinit {
        for position in popped..<pushed {
            unsafe (places + (position & (capacity - 1))).deinitialize(count: 1)
        }
        unsafe places.deallocate()
    }

    // MARK: The producer's thread

    /// Adds an element that the consumer sees after `publish`; false when there is no room.
    @inlinable
    package func push(_ element: Element) -> Bool {
        if pushed &- releasedSeen == capacity {
            // Acquiring: the consumer is done with what it released.
            releasedSeen = released.load(ordering: .acquiring)
            guard pushed &- releasedSeen < capacity else { return false }
        }
        unsafe (places + (pushed & (capacity &- 1))).initialize(to: element)
        pushed &+= 1
        return true
    }

    /// Shows everything pushed to the consumer; false when there was nothing new.
    @inlinable @discardableResult
    package func publish() -> Bool {
        guard published.load(ordering: .relaxed) != pushed else { return false }
        published.store(pushed, ordering: .releasing)
        return true
    }

    // MARK: The consumer's thread

    /// The oldest element; nil when nothing is published.
    @inlinable
    package func pop() -> Element? {
        if popped == publishedSeen {
            publishedSeen = published.load(ordering: .acquiring)
            guard popped != publishedSeen else { return nil }
        }
        let element = unsafe (places + (popped & (capacity &- 1))).move()
        popped &+= 1
        return element
    }

    /// Frees the places of everything popped.
    @inlinable
    package func release() {
        guard released.load(ordering: .relaxed) != popped else { return }
        released.store(popped, ordering: .releasing)
    }

    /// Whether nothing is published that was not popped.
    @inlinable
    package var isEmpty: Bool {
        popped == publishedSeen && published.load(ordering: .acquiring) == popped
    }
}
