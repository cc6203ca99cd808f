internal import CLinuxIO

/// Why memory for content could not be had.
package enum ArenaError: Error, Equatable, Sendable {
    /// The kernel refused the mapping.
    case outOfMemory
}

/// Pages that hold prompt and response bytes, and nothing else does.
///
/// Anonymous, page-aligned, left out of core dumps, wiped in a forked child, locked into memory
/// where the limit allows, zeroed before they go back to the kernel. Locking counts the whole
/// region against RLIMIT_MEMLOCK but takes pages only as they are first used.
///
/// Owned and used by one thread; it may be built on another.
@safe @usableFromInline
package struct ContentRegion: ~Copyable, @unchecked Sendable {
    /// SAFETY: `byteCount` mapped bytes, from `init` to `deinit`.
    @usableFromInline let base: UnsafeMutablePointer<UInt8>

    /// Size as asked for, in bytes, > 0.
    @usableFromInline package let byteCount: Int

    /// Whether the kernel keeps these pages out of swap.
    package let isLocked: Bool

    private let mappedBytes: Int

    /// Maps `byteCount` zero bytes; `byteCount > 0`.
    package init(byteCount: Int) throws(ArenaError) {
        precondition(byteCount > 0)
        let page = Int(getpagesize())
        let rounded = (byteCount + page - 1) / page * page
        guard let mapped = unsafe sluice_map_anonymous(rounded) else { throw .outOfMemory }
        _ = unsafe sluice_madvise(mapped, rounded, MADV_DONTDUMP)
        _ = unsafe sluice_madvise(mapped, rounded, MADV_WIPEONFORK)
        // Answers of many streams lie scattered: with pages of 4 KiB each costs a look-up.
        _ = unsafe sluice_madvise(mapped, rounded, MADV_HUGEPAGE)
        isLocked = unsafe sluice_lock_on_fault(mapped, rounded) == 0
        unsafe base = mapped.bindMemory(to: UInt8.self, capacity: rounded)
        mappedBytes = rounded
        self.byteCount = byteCount
    }

    deinit {
        unsafe sluice_wipe_resident(base, mappedBytes)
        unsafe munmap(base, mappedBytes)
    }

    /// The bytes, for reading.
    @inlinable
    package var span: Span<UInt8> {
        @_lifetime(borrow self)
        get {
            let span = unsafe Span(_unsafeStart: base, count: byteCount)
            return unsafe _overrideLifetime(span, borrowing: self)
        }
    }

    /// The bytes, for writing in place.
    @inlinable
    package var mutableSpan: MutableSpan<UInt8> {
        @_lifetime(&self)
        mutating get {
            let span = unsafe MutableSpan(_unsafeStart: base, count: byteCount)
            return unsafe _overrideLifetime(span, mutating: &self)
        }
    }

    /// Zeroes `range`, which lies within the region.
    package mutating func wipe(_ range: Range<Int>) {
        precondition(range.lowerBound >= 0 && range.upperBound <= byteCount)
        unsafe sluice_wipe(base + range.lowerBound, range.count)
    }

    /// Copies `bytes` to `offset`; they fit.
    @inlinable
    package mutating func copy(from bytes: Span<UInt8>, at offset: Int) {
        precondition(offset >= 0 && bytes.count <= byteCount - offset)
        unsafe bytes.withUnsafeBufferPointer { source in
            guard let start = source.baseAddress else { return }
            unsafe (base + offset).update(from: start, count: source.count)
        }
    }

    /// The bytes as a raw buffer, for the runtime modules that hand them to TLS.
    ///
    /// Valid only within `body`.
    @inlinable
    package mutating func withUnsafeMutableBytes<Result: ~Copyable, Failure: Error>(
        _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try unsafe body(UnsafeMutableRawBufferPointer(start: base, count: byteCount))
    }
}
