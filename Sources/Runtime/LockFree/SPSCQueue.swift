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
    /// SAFETY: two ends, from `init` to `deinit`; each is its own thread's. Behind a pointer, so
    /// that Swift does not check their exclusive use at every turn.
    @usableFromInline let producer: UnsafeMutablePointer<End>
    @usableFromInline let consumer: UnsafeMutablePointer<End>

    private struct Line {
        var words = InlineArray<16, UInt64>(repeating: 0)
    }

    /// What one side knows, on lines of its own.
    @usableFromInline
    struct End {
        /// Elements pushed, or popped, so far.
        @usableFromInline var done = 0
        /// `released`, or `published`, as it was last looked at.
        @usableFromInline var otherSeen = 0
        @usableFromInline let padding = InlineArray<30, UInt64>(repeating: 0)

        @inlinable init() {}
    }

    /// `capacity` is a power of two.
    @inlinable
    package init(capacity: Int) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0)
        self.capacity = capacity
        unsafe places = .allocate(capacity: capacity)
        unsafe producer = .allocate(capacity: 1)
        unsafe consumer = .allocate(capacity: 1)
        unsafe producer.initialize(to: End())
        unsafe consumer.initialize(to: End())
    }

    @inlinable
    deinit {
        for position in unsafe consumer.pointee.done..<producer.pointee.done {
            unsafe (places + (position & (capacity - 1))).deinitialize(count: 1)
        }
        unsafe places.deallocate()
        unsafe producer.deallocate()
        unsafe consumer.deallocate()
    }

    // MARK: The producer's thread

    /// Adds an element that the consumer sees after `publish`; false when there is no room.
    @inlinable
    package func push(_ element: Element) -> Bool {
        let pushed = unsafe producer.pointee.done
        if unsafe pushed &- producer.pointee.otherSeen == capacity {
            // Acquiring: the consumer is done with what it released.
            unsafe producer.pointee.otherSeen = released.load(ordering: .acquiring)
            guard unsafe pushed &- producer.pointee.otherSeen < capacity else { return false }
        }
        unsafe (places + (pushed & (capacity &- 1))).initialize(to: element)
        unsafe producer.pointee.done = pushed &+ 1
        return true
    }

    /// Shows everything pushed to the consumer; false when there was nothing new.
    @inlinable @discardableResult
    package func publish() -> Bool {
        let pushed = unsafe producer.pointee.done
        guard published.load(ordering: .relaxed) != pushed else { return false }
        published.store(pushed, ordering: .releasing)
        return true
    }

    // MARK: The consumer's thread

    /// The oldest element; nil when nothing is published.
    @inlinable
    package func pop() -> Element? {
        let popped = unsafe consumer.pointee.done
        if unsafe popped == consumer.pointee.otherSeen {
            let published = published.load(ordering: .acquiring)
            guard popped != published else { return nil }
            unsafe consumer.pointee.otherSeen = published
        }
        let element = unsafe (places + (popped & (capacity &- 1))).move()
        unsafe consumer.pointee.done = popped &+ 1
        return element
    }

    /// Frees the places of everything popped.
    @inlinable
    package func release() {
        let popped = unsafe consumer.pointee.done
        guard released.load(ordering: .relaxed) != popped else { return }
        released.store(popped, ordering: .releasing)
    }

    /// Whether nothing is published that was not popped.
    @inlinable
    package var isEmpty: Bool {
        unsafe consumer.pointee.done == consumer.pointee.otherSeen
            && published.load(ordering: .acquiring) == consumer.pointee.done
    }
}
