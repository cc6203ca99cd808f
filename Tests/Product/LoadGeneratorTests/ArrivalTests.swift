import Testing

import LoadGenerator

@Suite struct ArrivalTests {
    @Test func dueThingsComeInTheirOrder() {
        var queue = DueQueue()
        let times = (0..<500).map { UInt64(($0 * 7_919) % 1_009) }
        for (index, ns) in times.enumerated() {
            queue.push(DueQueue.Entry(ns: ns, id: Int32(index)))
        }
        var popped: [UInt64] = []
        while let entry = queue.pop(dueAt: 500) { popped.append(entry.ns) }
        #expect(popped == times.filter { $0 <= 500 }.sorted())
        #expect(queue.firstNs == times.filter { $0 > 500 }.min())
    }

    @Test func streamsAreSpreadAndEndApart() {
        let group = StreamGroup(
            "g", connections: 4, streams: 50, tokensPerTask: 200, tokensPerSecond: 50)
        let schedules = (0..<200).map { ArrivalSchedule(group, index: $0, startNs: 0) }
        #expect(Set(schedules.map(\.intendedNs)).count == 200)
        #expect(schedules.allSatisfy { $0.intendedNs < 20_000_000 })
        #expect(Set(schedules.map(\.tokens)) == Set(1...200))
    }

    @Test func aStreamIsDueAgainWhenItsTokensAreOver() {
        let group = StreamGroup(
            "g", connections: 1, streams: 1, tokensPerTask: 200, tokensPerSecond: 50)
        var schedule = ArrivalSchedule(group, index: 0, startNs: 1_000)
        #expect(schedule.tokens == 1)
        schedule.advance()
        #expect(schedule.intendedNs == 1_000 + 20_000_000)
        #expect(schedule.tokens == 200)
        schedule.advance()
        #expect(schedule.intendedNs == 1_000 + 201 * 20_000_000)
    }

    /// A target that answers at once, except that nothing moves for half a second.
    @Test func aStallShowsInTheLatenciesOfEverythingThatWasMeantToStartInIt() throws {
        let msNs: UInt64 = 1_000_000
        var group = StreamGroup("g", connections: 1, streams: 10, tokensPerTask: 1)
        group.tasksPerSecond = 100
        var arrivals = TaskArrivals()
        var tasks = ClientTasks(groupCount: 1)
        let first = tasks.addSlots(10, group: 0)
        for slot in 0..<10 {
            arrivals.addSlot()
            arrivals.start(slot, ArrivalSchedule(group, index: slot, startNs: 0))
        }
        tasks.window.fromNs = 0
        tasks.window.untilNs = 3_000 * msNs
        let stall = 1_000 * msNs..<1_500 * msNs
        var open: [Int] = []
        for ms in 0..<UInt64(4_000) {
            let nowNs = ms * msNs
            while let due = arrivals.next(dueAt: nowNs) {
                tasks.begin(
                    first + due.slot, asked: due.tokens, intendedNs: due.intendedNs,
                    isAccepted: true)
                open.append(due.slot)
            }
            guard !stall.contains(nowNs) else { continue }
            for slot in open {
                tasks.token(first + slot, position: 0, intendedNs: nowNs, nowNs: nowNs)
                tasks.ended(first + slot, isComplete: true, usage: 1, nowNs: nowNs)
                _ = arrivals.freed(slot)
            }
            open.removeAll()
        }
        #expect(tasks.faults.allSatisfy { $0 == 0 })
        let ttft = tasks.measures[0].ttft
        // 300 tasks were meant to start within the window. 50 of them in the stall, though the ten
        // streams could begin only ten then: the first waits the whole of it, the
        // last 10 ms and for those before it.
        #expect(ttft.count == 300)
        #expect(ttft.steps.filter { $0.upperNs >= 10 * msNs }.reduce(0) { $0 + $1.count } == 50)
        #expect(try #require(ttft.ns(at: 1)) >= 500 * msNs)
        #expect(try #require(ttft.ns(at: 0.9)) >= 190 * msNs)
        #expect(try #require(ttft.ns(at: 0.5)) < msNs)
    }

    @Test func tasksThatNeverBeganCountWithTheTimeTheyWaited() {
        var group = StreamGroup("g", connections: 1, streams: 1, tokensPerTask: 1)
        group.tasksPerSecond = 10
        var arrivals = TaskArrivals()
        arrivals.addSlot()
        arrivals.start(0, ArrivalSchedule(group, index: 0, startNs: 0))
        #expect(arrivals.next(dueAt: 0) != nil)
        // The task that began never ends.
        #expect(arrivals.next(dueAt: 1_000_000_000) == nil)
        let late = arrivals.stop(at: 1_000_000_000)
        #expect(late.map(\.intendedNs) == (1...10).map { $0 * 100_000_000 })
    }

    @Test func aClosedLoopBeginsAtOnce() {
        var arrivals = TaskArrivals()
        arrivals.addSlot()
        arrivals.take(0)
        let beginsAtOnce = arrivals.freed(0)
        #expect(beginsAtOnce)
        #expect(arrivals.firstNs == nil)
    }
}
