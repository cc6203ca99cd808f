package import NIOCore

/// Runs Swift tasks on the thread of one event loop: a task that takes from one channel of the loop
/// and gives to another needs no other thread, and wakes none. Such tasks must not compute for long
/// or block: all channels of the loop wait for them.
package final class EventLoopExecutor: TaskExecutor {
    package let loop: any EventLoop

    package init(_ loop: any EventLoop) {
        self.loop = loop
    }

    package func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        // SAFETY: a loop runs what it is given once, and this executor lives as long as the closure
        // that holds it, which is longer than the run of the job.
        loop.execute { unsafe job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}
