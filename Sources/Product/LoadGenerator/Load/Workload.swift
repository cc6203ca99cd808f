/// Streams of one kind, on connections of their own.
package struct StreamGroup: Equatable, Sendable {
    package var name: String
    package var connections: Int
    /// Tasks open at once on each connection.
    package var streams: Int
    package var tokensPerTask: Int
    /// Bytes of each token's payload, 16 or more.
    package var tokenBytes = 32
    package var promptBytes = 200
    /// Of each stream; 0 = as fast as it goes.
    package var tokensPerSecond = 0
    /// Tasks a second of the whole group, at times fixed beforehand; 0 = for paced tokens as many
    /// as keep every stream busy, else the next as soon as one ends (a closed loop).
    package var tasksPerSecond = 0.0
    /// All streams begin their tasks at once, half a second into the measurement, and again a second
    /// after the last token was due.
    package var arrivesInBursts = false
    /// Plaintext bytes a second that each connection reads; 0 = all at once.
    package var readBytesPerSecond = 0
    /// Its connections do nothing.
    package var isIdle = false
    /// Every task gets a connection of its own, `tasksPerSecond` of them.
    package var isChurning = false

    package init(
        _ name: String, connections: Int, streams: Int, tokensPerTask: Int,
        tokensPerSecond: Int = 0
    ) {
        self.name = name
        self.connections = connections
        self.streams = streams
        self.tokensPerTask = tokensPerTask
        self.tokensPerSecond = tokensPerSecond
    }

    package var streamCount: Int { connections * streams }
    package var periodNs: UInt64 {
        tokensPerSecond == 0 ? 0 : 1_000_000_000 / UInt64(tokensPerSecond)
    }

    /// Tasks arrive at intended times; else each waits for the one before.
    package var isOpenLoop: Bool { taskPeriodNs > 0 }

    /// Between two tasks of one stream, nanoseconds; 0 in a closed loop. A paced stream is busy
    /// for one period less than its tokens, so it is free again when the next task is due.
    package var taskPeriodNs: UInt64 {
        if tasksPerSecond > 0 {
            return UInt64(1_000_000_000 * Double(streamCount) / tasksPerSecond)
        }
        let pauseTokens = arrivesInBursts ? max(1, tokensPerSecond) : 0
        return periodNs * UInt64(tokensPerTask + pauseTokens)
    }
}

/// What is driven through a target. The first group is the one whose latencies stand for the run.
package struct Workload: Equatable, Sendable {
    package var name: String
    package var groups: [StreamGroup]
    package var suppliers = 8
    /// The ratio that counts is CPU by task instead of by token.
    package var isByTask = false

    package init(name: String, groups: [StreamGroup]) {
        self.name = name
        self.groups = groups
    }

    package var streamCount: Int { groups.reduce(0) { $0 + $1.streamCount } }
    package var connectionCount: Int { groups.reduce(0) { $0 + $1.connections } }
    package var isOpenLoop: Bool { groups.allSatisfy { $0.isOpenLoop || $0.isIdle } }

    /// The presets, by name.
    package static let presets: [Workload] = [
        one("W1", connections: 8, streams: 128, tokens: 200, rate: 0),
        one("W2", connections: 512, streams: 1, tokens: 200, rate: 0),
        unary,
        one("W4", connections: 64, streams: 4, tokens: 200, rate: 50),
        one("W5", connections: 128, streams: 8, tokens: 200, rate: 50),
        one("W6", connections: 128, streams: 16, tokens: 200, rate: 50),
        one("W5m", connections: 8, streams: 128, tokens: 200, rate: 50),
        one("W6m", connections: 8, streams: 256, tokens: 200, rate: 50),
        longPrompts,
    ]

    private static func one(
        _ name: String, connections: Int, streams: Int, tokens: Int, rate: Int
    ) -> Workload {
        let group = StreamGroup(
            "streams", connections: connections, streams: streams, tokensPerTask: tokens,
            tokensPerSecond: rate)
        return Workload(name: name, groups: [group])
    }

    private static var unary: Workload {
        var workload = one("W3", connections: 8, streams: 64, tokens: 1, rate: 0)
        workload.isByTask = true
        return workload
    }

    /// 64 prompts of 240 KB at once, then 500 tokens each, beside W4.
    private static var longPrompts: Workload {
        var prompts = StreamGroup(
            "prompts", connections: 8, streams: 8, tokensPerTask: 500, tokensPerSecond: 50)
        prompts.promptBytes = 240_000
        prompts.arrivesInBursts = true
        let beside = StreamGroup(
            "beside", connections: 64, streams: 4, tokensPerTask: 200, tokensPerSecond: 50)
        return Workload(name: "W7", groups: [prompts, beside])
    }

    /// What makes the workload impossible, in words; nil when nothing does.
    package var fault: String? {
        for group in groups {
            if group.tokenBytes < ContentStamp.byteCount || group.tokenBytes > 8_000 {
                return "a token has 16 to 8000 bytes"
            }
            if group.promptBytes < TaskOrder.byteCount || group.promptBytes > 1_000_000 {
                return "a prompt has 16 to 1000000 bytes"
            }
            if group.streams < 1 || group.streams > 1_024 || group.connections < 1 {
                return "a connection has 1 to 1024 streams"
            }
            if group.tokensPerTask < 1 || group.tokensPerTask > 1_000_000 {
                return "a task has 1 to 1000000 tokens"
            }
        }
        let busyStreams = groups.reduce(0) { $0 + ($1.isIdle ? 0 : $1.streamCount) }
        if suppliers < 1 || busyStreams > suppliers * 1_024 {
            return "more open tasks than the suppliers have streams (1024 each)"
        }
        return nil
    }
}
