/// When a shard holds its wait open to gather more: near saturation, and only there.
///
/// A wake-up, a read and a send cost the same for one token as for many. While the thread has time
/// to spare, it wakes for the first thing that happens, and nothing waits. When it spends more than
/// half of a processor on many small frames, a wait of `gatherUs` shares those costs among all that
/// arrive within it; it ends when the load is low enough to be served one by one. Where much of what
/// comes begins and ends tasks, nothing is gathered, although it would save time of the processor:
/// that is what somebody waits for.
///
/// Pure: the shell says how each turn went and, when a window is over, what the thread has used.
/// Owned by the shard's thread.
package struct GatherPolicy: Sendable {
    /// How long the wait is held open, microseconds. Below 200 it costs more than it saves.
    package static let gatherUs = 500
    /// How much time is looked at before a change.
    package static let windowUs: UInt64 = 50_000
    /// It begins from this share of a processor, and ends below the other. Gathering itself lowers
    /// the share by half and more: the two are far apart, so that it does not swing.
    package static let beginsBusyPercent: UInt64 = 50
    package static let endsBusyPercent: UInt64 = 15
    /// Relayed frames in `gatherUs` for which it is worth it. Fewer cost half of a processor too,
    /// by waking for each, but leave room to serve more of them: the cost of one falls with load.
    package static let framesMin: UInt64 = 12
    /// Relayed frames for each other one that came, from which on it begins. It ends below half.
    package static let framesPerOther: UInt64 = 2

    private var windowBeganUs: UInt64 = 0
    private var frames: UInt64 = 0
    private var others: UInt64 = 0
    /// What the thread had used in all when the window began.
    private var processorUs: UInt64 = 0
    /// Whether the next wait is to be held open.
    package private(set) var isGathering = false

    package init() {}

    /// What `wait` is told: 0 = answer at once.
    package var waitUs: Int { isGathering ? Self.gatherUs : 0 }

    /// A turn is over that relayed so many frames and received so many `others`: SUBMIT, STARTED,
    /// END, CREDIT and whatever is not relayed. True if a window is over too: then `decide` is due.
    /// Processor time is asked for no more often than that, because asking is a system call.
    package mutating func turned(nowUs: UInt64, frames: UInt64, others: UInt64) -> Bool {
        self.frames += frames
        self.others += others
        return nowUs >= windowBeganUs + Self.windowUs
    }

    /// Ends the window. Work that the kernel does for this thread inside a wait, sending above all,
    /// is the larger part of it: so `processorUs`, what the thread has used since it began, counts,
    /// and not the time between two waits.
    package mutating func decide(nowUs: UInt64, processorUs: UInt64) {
        let elapsedUs = nowUs - windowBeganUs
        let framesWanted = Self.framesMin * elapsedUs / UInt64(Self.gatherUs)
        let busyPercent = (processorUs - self.processorUs) * 100 / max(elapsedUs, 1)
        if isGathering {
            isGathering =
                busyPercent >= Self.endsBusyPercent && frames * 3 >= framesWanted * 2
                && frames * 2 >= others * Self.framesPerOther
        } else {
            isGathering =
                busyPercent >= Self.beginsBusyPercent && frames >= framesWanted
                && frames >= others * Self.framesPerOther
        }
        windowBeganUs = nowUs
        frames = 0
        others = 0
        self.processorUs = processorUs
    }
}
