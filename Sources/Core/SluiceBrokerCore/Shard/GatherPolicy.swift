/// When a shard holds its wait open to gather more: near saturation, and only there.
///
/// A wake-up, a read and a send cost the same for one token as for many. While the thread has time
/// to spare, it wakes for the first thing that happens, and nothing waits. When it is busy for more
/// than half of its time with many small frames, a wait of `gatherUs` shares those costs among all
/// that arrive within it; it ends when the load is low enough to be served one by one.
///
/// Pure: the shell says how each turn went. Owned by the shard's thread.
package struct GatherPolicy: Sendable {
    /// How long the wait is held open, microseconds. Below 200 it costs more than it saves.
    package static let gatherUs = 500
    /// How much time is looked at before a change.
    package static let windowUs: UInt64 = 50_000
    /// It begins from this share of time busy, and ends below the other. Gathering itself lowers
    /// the share by half and more: the two are far apart, so that it does not swing.
    package static let beginsBusyPercent: UInt64 = 50
    package static let endsBusyPercent: UInt64 = 15
    /// Relayed frames in `gatherUs` for which it is worth it.
    package static let framesMin: UInt64 = 4

    private var elapsedUs: UInt64 = 0
    private var busyUs: UInt64 = 0
    private var frames: UInt64 = 0
    /// Whether the next wait is to be held open.
    package private(set) var isGathering = false

    package init() {}

    /// What `wait` is told: 0 = answer at once.
    package var waitUs: Int { isGathering ? Self.gatherUs : 0 }

    /// A turn is over: it slept, then was busy, and relayed so many frames.
    package mutating func turned(sleptUs: UInt64, busyUs: UInt64, frames: UInt64) {
        elapsedUs += sleptUs + busyUs
        self.busyUs += busyUs
        self.frames += frames
        guard elapsedUs >= Self.windowUs else { return }
        let framesWanted = Self.framesMin * elapsedUs / UInt64(Self.gatherUs)
        let busyPercent = self.busyUs * 100 / elapsedUs
        if isGathering {
            isGathering = busyPercent >= Self.endsBusyPercent && self.frames * 2 >= framesWanted
        } else {
            isGathering = busyPercent >= Self.beginsBusyPercent && self.frames >= framesWanted
        }
        elapsedUs = 0
        self.busyUs = 0
        self.frames = 0
    }
}
