internal import CLinuxIO

/// The two queues that this thread shares with the kernel.
///
/// Memory order: the kernel's tail of completions and head of submissions are read with acquire;
/// our tail of submissions and head of completions are published with release.
@safe
struct SubmissionRing: ~Copyable {
    let descriptor: Int32

    /// SAFETY: both mappings live from `init` to `deinit`; all pointers below lie within them.
    private let rings: UnsafeMutableRawPointer
    private let ringBytes: Int
    private let entries: UnsafeMutablePointer<io_uring_sqe>
    private let entryBytes: Int

    private let submissionHead: UnsafeMutablePointer<UInt32>
    private let submissionTail: UnsafeMutablePointer<UInt32>
    private let submissionFlags: UnsafeMutablePointer<UInt32>
    private let completionHead: UnsafeMutablePointer<UInt32>
    private let completionTail: UnsafeMutablePointer<UInt32>
    private let completionsDropped: UnsafeMutablePointer<UInt32>
    private let completed: UnsafeMutablePointer<io_uring_cqe>
    private let entryCount: UInt32
    private let completionMask: UInt32
    private let canGather: Bool

    /// Our tail, ahead of the published one while entries are being filled.
    private var tail: UInt32
    /// Our head of completions.
    private var head: UInt32

    /// A completion, copied out of the ring.
    struct Completed {
        var token: UInt64
        var result: Int32
        var flags: UInt32
    }

    init(entries count: UInt32) throws(SystemError) {
        var parameters = io_uring_params()
        parameters.flags = SLUICE_RING_FLAGS
        parameters.cq_entries = count * 4
        let ring = try SystemError.check(.ringSetup, unsafe sluice_ring_setup(count, &parameters))
        guard parameters.features & SLUICE_RING_FEATURES == SLUICE_RING_FEATURES else {
            close(ring)
            throw SystemError(.ringSetup, code: ENOSYS)
        }
        let submissionOffsets = parameters.sq_off
        let completionOffsets = parameters.cq_off
        let submissionBytes = Int(submissionOffsets.array) + Int(parameters.sq_entries) * 4
        let completionBytes =
            Int(completionOffsets.cqes)
            + Int(parameters.cq_entries) * MemoryLayout<io_uring_cqe>.stride
        let bytes = max(submissionBytes, completionBytes)
        let entryBytes = Int(parameters.sq_entries) * MemoryLayout<io_uring_sqe>.stride
        guard let rings = unsafe sluice_ring_map(ring, bytes, SLUICE_RING_OFFSET_RINGS) else {
            close(ring)
            throw SystemError(.ringMap, code: ENOMEM)
        }
        guard
            let entries = unsafe sluice_ring_map(ring, entryBytes, SLUICE_RING_OFFSET_ENTRIES)
        else {
            unsafe munmap(rings, bytes)
            close(ring)
            throw SystemError(.ringMap, code: ENOMEM)
        }
        descriptor = ring
        unsafe self.rings = rings
        ringBytes = bytes
        unsafe self.entries = entries.assumingMemoryBound(to: io_uring_sqe.self)
        self.entryBytes = entryBytes
        func word(_ offset: UInt32) -> UnsafeMutablePointer<UInt32> {
            unsafe (rings + Int(offset)).assumingMemoryBound(to: UInt32.self)
        }
        unsafe submissionHead = word(submissionOffsets.head)
        unsafe submissionTail = word(submissionOffsets.tail)
        unsafe submissionFlags = word(submissionOffsets.flags)
        unsafe completionHead = word(completionOffsets.head)
        unsafe completionTail = word(completionOffsets.tail)
        unsafe completionsDropped = word(completionOffsets.overflow)
        unsafe completed = (rings + Int(completionOffsets.cqes))
            .assumingMemoryBound(to: io_uring_cqe.self)
        entryCount = parameters.sq_entries
        completionMask = parameters.cq_entries - 1
        canGather = parameters.features & SLUICE_FEATURE_MIN_TIMEOUT != 0
        // Entries are used in order, so the index array never changes.
        let array = unsafe word(submissionOffsets.array)
        for index in 0..<parameters.sq_entries { unsafe array[Int(index)] = index }
        unsafe tail = sluice_load_relaxed(submissionTail)
        unsafe head = sluice_load_relaxed(completionHead)
    }

    deinit {
        close(descriptor)
        unsafe munmap(rings, ringBytes)
        unsafe munmap(entries, entryBytes)
    }

    /// A free entry, to be filled at once; a full queue is submitted first.
    @unsafe
    mutating func nextEntry() -> UnsafeMutablePointer<io_uring_sqe> {
        var tries = 0
        while tail &- (unsafe sluice_load_acquire(submissionHead)) >= entryCount {
            publish()
            let code = sluice_ring_submit(descriptor, pending)
            // EBUSY and EAGAIN: completions wait to be reaped; room is made by the kernel's own
            // overflow list, so trying again ends. Anything else is our bug.
            precondition(code >= 0 || code == -EBUSY || code == -EAGAIN || code == -EINTR)
            tries += 1
            precondition(tries < 1_000_000)
        }
        let entry = unsafe entries + Int(tail & (entryCount - 1))
        tail &+= 1
        return unsafe entry
    }

    /// Submits and waits for `waitFor` completions, 0 or 1, at most `timeoutNs` (below 0: without
    /// end). Returns early when a signal interrupts.
    mutating func enter(waitFor: UInt32, timeoutNs: Int64, gatherUs: Int) {
        publish()
        let ready = unsafe sluice_load_acquire(completionTail) &- head
        let waitFor = ready > 0 ? 0 : waitFor
        let gatherUs = canGather && waitFor > 0 ? UInt32(clamping: gatherUs) : 0
        // Without a timeout the kernel would end the wait at `gatherUs` even if nothing came.
        let endless: Int64 = gatherUs > 0 ? 3_600_000_000_000 : -1
        let limitNs = timeoutNs < 0 ? endless : timeoutNs
        // Held open for more than one completion, the kernel answers at `gatherUs` with what it
        // has, if that is at least one.
        let goal = gatherUs > 0 ? 64 : waitFor
        var code = sluice_ring_enter(descriptor, pending, goal, limitNs, gatherUs)
        if code == -EBUSY || code == -EAGAIN {
            // The kernel wants completions reaped first; it has now flushed what it could.
            code = sluice_ring_enter(descriptor, 0, 0, 0, 0)
        }
        precondition(
            code >= 0 || code == -ETIME || code == -EINTR || code == -EBUSY || code == -EAGAIN)
        // NODROP: the kernel keeps what does not fit. A dropped completion would leak a slot.
        unsafe precondition(sluice_load_relaxed(completionsDropped) == 0)
    }

    /// Whether completions overflowed into the kernel's own list since they were last flushed.
    var hasOverflowed: Bool {
        unsafe sluice_load_relaxed(submissionFlags) & SLUICE_SQ_CQ_OVERFLOW != 0
    }

    /// The next completion, nil when all that are ready were taken.
    mutating func nextCompletion() -> Completed? {
        guard unsafe sluice_load_acquire(completionTail) != head else { return nil }
        let entry = unsafe completed[Int(head & completionMask)]
        head &+= 1
        unsafe sluice_store_release(completionHead, head)
        return Completed(token: entry.user_data, result: entry.res, flags: entry.flags)
    }

    private func publish() {
        unsafe sluice_store_release(submissionTail, tail)
    }

    /// Entries that the kernel has not taken.
    private var pending: UInt32 {
        tail &- (unsafe sluice_load_acquire(submissionHead))
    }
}

/// Receive buffers that the kernel chooses from.
@safe
struct ProvidedBuffers: ~Copyable {
    static let group: UInt16 = 1

    /// SAFETY: `count * bytes` bytes of buffers, from `init` to `deinit`.
    private let base: UnsafeMutablePointer<UInt8>
    /// SAFETY: the ring of `count` entries that the kernel reads, from `init` to `deinit`.
    private let ring: UnsafeMutableRawPointer
    private let count: Int
    private let bufferBytes: Int
    private var tail: UInt16 = 0

    /// Buffers that the kernel may fill, those not yet published included.
    private(set) var available: Int

    init(ring descriptor: Int32, count: Int, bytes: Int) throws(SystemError) {
        precondition(count > 0 && count <= 32_768 && count & (count - 1) == 0)
        let ringBytes = max(4_096, count * 16)
        guard let memory = unsafe sluice_map_anonymous(count * bytes) else {
            throw SystemError(.memory, code: ENOMEM)
        }
        guard let ring = unsafe sluice_map_anonymous(ringBytes) else {
            unsafe munmap(memory, count * bytes)
            throw SystemError(.memory, code: ENOMEM)
        }
        let code = unsafe sluice_ring_register_buffers(
            descriptor, ring, UInt32(count), Self.group)
        guard code >= 0 else {
            unsafe munmap(memory, count * bytes)
            unsafe munmap(ring, ringBytes)
            throw SystemError(.ringRegister, code: -code)
        }
        unsafe base = memory.assumingMemoryBound(to: UInt8.self)
        unsafe self.ring = ring
        self.count = count
        bufferBytes = bytes
        available = 0
        for buffer in 0..<count { recycle(UInt16(buffer)) }
        publish()
    }

    deinit {
        unsafe munmap(base, count * bufferBytes)
        unsafe munmap(ring, max(4_096, count * 16))
    }

    @unsafe
    func bytes(of buffer: UInt16) -> UnsafePointer<UInt8> {
        unsafe UnsafePointer(base + Int(buffer) * bufferBytes)
    }

    /// The kernel filled one.
    mutating func taken() {
        available -= 1
    }

    /// Gives one back; `publish` shows it to the kernel.
    mutating func recycle(_ buffer: UInt16) {
        unsafe sluice_buffer_put(
            ring, tail, UInt16(count - 1), base + Int(buffer) * bufferBytes, UInt32(bufferBytes),
            buffer)
        tail &+= 1
        available += 1
    }

    mutating func publish() {
        unsafe sluice_buffer_publish(ring, tail)
    }
}
