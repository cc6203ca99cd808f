import Testing

import LoadGenerator

@Suite struct ClientTaskTests {
    private func tasks() -> ClientTasks {
        var tasks = ClientTasks(groupCount: 1)
        _ = tasks.addSlots(2, group: 0)
        tasks.window.fromNs = 100
        tasks.window.untilNs = 1_000
        return tasks
    }

    private func count(_ fault: RunFault, of tasks: ClientTasks) -> UInt64 {
        tasks.faults[fault.rawValue]
    }

    @Test func aTaskAsItShouldBeHasNoFaults() {
        var tasks = tasks()
        tasks.begin(0, asked: 2, intendedNs: 100, isAccepted: false)
        tasks.accepted(0)
        tasks.token(0, position: 0, intendedNs: 200, nowNs: 250)
        tasks.token(0, position: 1, intendedNs: 300, nowNs: 310)
        tasks.ended(0, isComplete: true, usage: 2, nowNs: 320)
        #expect(tasks.faults.allSatisfy { $0 == 0 })
        #expect(tasks.freed == [0])
        let measures = tasks.measures[0]
        #expect(measures.tokens == 2 && measures.tasks == 1)
        #expect(measures.ttft.ns(at: 1) == 150)
        #expect(measures.hop.ns(at: 1) == 50)
        #expect(measures.tokenGap.ns(at: 1) == 60)
    }

    @Test func everyWrongAnswerIsAFault() {
        var tasks = tasks()
        tasks.token(0, position: 0, intendedNs: 0, nowNs: 0)
        #expect(count(.tokenOutOfPlace, of: tasks) == 1)
        tasks.begin(0, asked: 3, intendedNs: 0, isAccepted: true)
        tasks.token(0, position: 1, intendedNs: 0, nowNs: 0)
        #expect(count(.tokenOutOfOrder, of: tasks) == 1)
        tasks.token(0, position: 2, intendedNs: 0, nowNs: 0)
        tasks.ended(0, isComplete: true, usage: 2, nowNs: 0)
        #expect(count(.wrongUsage, of: tasks) == 1)
        tasks.ended(0, isComplete: true, usage: nil, nowNs: 0)
        #expect(count(.badEnd, of: tasks) == 1)
        tasks.begin(1, asked: 3, intendedNs: 0, isAccepted: true)
        tasks.ended(1, isComplete: false, usage: 0, nowNs: 0)
        #expect(count(.badEnd, of: tasks) == 2)
    }

    @Test func aShortAnswerIsAFaultUnlessTasksAreCutShort() {
        for isDraining in [false, true] {
            var tasks = tasks()
            tasks.isDraining = isDraining
            tasks.begin(0, asked: 2, intendedNs: 0, isAccepted: true)
            tasks.token(0, position: 0, intendedNs: 0, nowNs: 0)
            tasks.ended(0, isComplete: true, usage: 1, nowNs: 0)
            #expect(count(.wrongUsage, of: tasks) == (isDraining ? 0 : 1))
        }
    }

    @Test func onlyWhatWasMeantToHappenInTheWindowCounts() {
        var tasks = tasks()
        tasks.begin(0, asked: 3, intendedNs: 50, isAccepted: true)
        tasks.token(0, position: 0, intendedNs: 60, nowNs: 150)
        #expect(tasks.measures[0].ttft.count == 0)
        #expect(tasks.measures[0].hop.count == 0)
        // Meant for the window, arrived after it: a target that is late cannot hide it.
        tasks.token(0, position: 1, intendedNs: 900, nowNs: 5_000)
        #expect(tasks.measures[0].hop.ns(at: 1) == 4_100)
        tasks.token(0, position: 2, intendedNs: 1_000, nowNs: 5_000)
        #expect(tasks.measures[0].hop.count == 1)
    }
}
