import Development
import Foundation
import Testing

struct RunDirectoryTests {
    @Test("the run directory is named by user and data directory, the same every time")
    func name() throws {
        let temporary = try TemporaryHome()
        let run = temporary.home.runDirectory
        #expect(run.path == temporary.home.runDirectory.path)
        let other = try TemporaryHome()
        #expect(other.home.runDirectory.path != run.path)
        if run.isOnTmpfs {
            let pattern = /\/dev\/shm\/sluice-\d+-[0-9a-f]{16}/
            #expect(run.path.wholeMatch(of: pattern) != nil)
        } else {
            #expect(run.path == temporary.home.path + "/run")
        }
    }

    @Test("a run directory goes when it holds no instance, and stays while it does")
    func removal() throws {
        let temporary = try TemporaryHome()
        let path = temporary.home.path + "/run"
        let run = RunDirectory(path: path, isOnTmpfs: false)
        let instance = path + "/00000000000000a1"
        try FileManager.default.createDirectory(
            atPath: instance, withIntermediateDirectories: true)
        #expect(!run.removeIfDrained())
        #expect(FileManager.default.fileExists(atPath: instance))
        try FileManager.default.removeItem(atPath: instance)
        try Data().write(to: URL(fileURLWithPath: path + "/.reader"))
        #expect(run.removeIfDrained())
        #expect(!FileManager.default.fileExists(atPath: path))
    }
}

struct JSONLineTests {
    @Test("members keep their order, and every text can be read back")
    func roundTrip() throws {
        let text = "a \"quote\", a \\, a\nline, a\ttab, \u{1}, Grüße 🌊"
        var inner = JSONLine()
        inner.add("pid", 7)
        var line = JSONLine()
        line.add("z", text)
        line.add("a", nil as Int?)
        line.add("list", ["x", text])
        line.add("flag", true)
        line.add("inner", inner)
        #expect(!"\(line)".contains("\n"))
        #expect("\(line)".hasPrefix("{\"z\":"))
        let value = try JSONSerialization.jsonObject(with: Data("\(line)".utf8))
        let object = try #require(value as? [String: Any])
        #expect(object["z"] as? String == text)
        #expect(object["a"] is NSNull)
        #expect(object["list"] as? [String] == ["x", text])
        #expect(object["flag"] as? Bool == true)
        #expect((object["inner"] as? [String: Any])?["pid"] as? Int == 7)
    }
}
