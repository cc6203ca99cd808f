import Foundation
import ProcessConfiguration
import Testing

/// What is wrong with a file, in the order of its keys.
private func problems(_ text: String) -> [String] {
    do throws(ConfigurationError) {
        _ = try ConfigurationFile(path: "sluice.json", data: Data(text.utf8))
        return []
    } catch {
        return error.problems.map(\.description)
    }
}

/// Each value counts from the nearest place that names it, and what is wrong is said by name.
struct ConfigurationTests {
    private let whole = """
        {
          // Both meet here.
          "run": "/dev/shm/sluice", "data": "/var/lib/sluice",
          "broker": {
            "certificate": "server.pem", "private-key": "server-key.pem", "port": 7701,
            "shards": 3,
          },
        }
        """

    private func settings(
        flags: [String: String] = [:], environment: [String: String] = [:]
    ) throws -> EffectiveConfiguration {
        let file = try ConfigurationFile(path: "sluice.json", data: Data(whole.utf8))
        return try EffectiveConfiguration(
            .broker, flags: flags, environment: environment, file: file)
    }

    private func entry(
        _ name: String, _ settings: EffectiveConfiguration
    ) throws -> EffectiveConfiguration.Entry {
        try #require(settings.entries.first { $0.key.name == name })
    }

    @Test("a flag counts before the environment, that before the file, that before the default")
    func precedence() throws {
        let all = try settings(
            flags: ["port": "1"],
            environment: ["SLUICE_BROKER_PORT": "2", "SLUICE_BROKER_SHARDS": "4"])
        #expect(all.number("port") == 1)
        #expect(try entry("port", all).origin == .flag)
        #expect(all.number("shards") == 4)
        #expect(try entry("shards", all).origin == .environment)
        #expect(try entry("run", all).origin == .file)
        #expect(all.required("backend") == "auto")
        #expect(try entry("backend", all).origin == .fallback)
        #expect(try settings().number("port") == 7_701)
        #expect(try settings(environment: ["SLUICE_BROKER_PORT": ""]).number("port") == 7_701)
    }

    @Test("every key has one name, and its variable follows from it")
    func names() {
        let paths = ConfigurationKey.all.map(\.path)
        #expect(Set(paths).count == paths.count)
        let variables = ConfigurationKey.all.map(\.variable)
        #expect(Set(variables).count == variables.count)
        #expect(variables.contains("SLUICE_BROKER_BODY_MEMORY"))
        #expect(variables.contains("SLUICE_STORE"))
        #expect(variables.contains("SLUICE_RUN"))
    }

    @Test("an unknown key is named with its file and the nearest key that is known")
    func unknownKeys() {
        #expect(
            problems(#"{"broker": {"shard": 2}}"#) == [
                "sluice.json: broker.shard is not a setting; the nearest that is: broker.shards"
            ])
        #expect(
            problems(#"{"brokers": {"port": 2}}"#) == [
                "sluice.json: brokers is not a setting; the nearest that is: broker"
            ])
        #expect(
            problems(#"{"port": 2}"#) == [
                "sluice.json: port is not a setting; the nearest that is: broker.port"
            ], "a setting of one process has no place at the top")
    }

    @Test(
        "a wrong value is named with its file, its key and what was expected",
        arguments: [
            (#"{"broker": {"port": 70000}}"#, "broker.port is \"70000\"; expected a whole number"),
            (#"{"broker": {"port": "x"}}"#, "broker.port is \"x\"; expected a whole number"),
            (#"{"broker": {"port": 1.5}}"#, "broker.port is 1.5; expected a whole number"),
            (#"{"broker": {"port": true}}"#, "broker.port is true; expected a whole number"),
            (#"{"broker": {"port": null}}"#, "broker.port is null; expected a whole number"),
            (#"{"broker": {"backend": "uring"}}"#, "expected auto, ring or epoll"),
            (#"{"broker": {"host": ""}}"#, "broker.host is \"\"; expected text"),
            (#"{"broker": 3}"#, "broker is 3; expected an object"),
            (#"{"run": ["a"]}"#, "run is a list; expected text"),
            ("[]", "sluice.json holds a list; expected one object"),
            ("{", "sluice.json is not JSON"),
        ])
    func wrongValues(_ text: String, _ expected: String) throws {
        let found = problems(text)
        #expect(found.count == 1)
        #expect(found.first?.contains(expected) == true, "\(found)")
        #expect(found.first?.hasPrefix("sluice.json") == true)
    }

    /// Found by the fuzzer: the decoder went on behind the end.
    @Test("a long number at the end of the file is read to there and no further")
    func numberAtTheEnd() {
        let more = Data((String(repeating: "7", count: 100) + "7e.x").utf8)
        let error = #expect(throws: ConfigurationError.self) {
            _ = try ConfigurationFile(path: "sluice.json", data: more.prefix(100))
        }
        #expect(
            error?.description == "sluice.json holds 7.777777777777778e+99; expected one object")
    }

    @Test("bytes that are no UTF-8 are named as such")
    func noText() {
        let before = Array(#"{ "broker": { "port": 1, "#.utf8)
        let data = Data(before + [0xFF, 0xFF] + Array("} }".utf8))
        let error = #expect(throws: ConfigurationError.self) {
            _ = try ConfigurationFile(path: "sluice.json", data: data)
        }
        #expect(error?.description.hasPrefix("sluice.json is not text in UTF-8") == true)
    }

    @Test("everything that is wrong is said at once")
    func allProblems() {
        #expect(problems(#"{"broker": {"port": -1, "shards": 0}, "x": 1}"#).count == 3)
    }

    @Test("a password is refused in the file, and never shown from anywhere")
    func passwords() throws {
        for url in [
            "postgresql://u:hunter2@db/sluice", "postgresql:///sluice?user=u&password=hunter2",
        ] {
            let found = problems(#"{"sidecar": {"store": "\#(url)"}}"#)
            #expect(found.count == 1)
            #expect(!found.joined().contains("hunter2"))
            let settings = try EffectiveConfiguration(
                .sidecar, flags: ["run": "r", "data": "d"], environment: ["SLUICE_STORE": url],
                file: nil)
            #expect(settings.text("store") == url)
            for entry in settings.entries { #expect(!entry.shown.contains("hunter2")) }
        }
        #expect(problems(#"{"sidecar": {"store": "postgresql://u@db/sluice"}}"#).isEmpty)
    }

    @Test("what is missing is said with every way to give it")
    func missing() throws {
        let error = try #require(throws: ConfigurationError.self) {
            try EffectiveConfiguration(.broker, environment: [:], file: nil)
        }
        #expect(
            error.problems.map(\.key).sorted() == [
                "broker.certificate", "broker.directory", "broker.private-key", "run",
            ])
        #expect(error.description.contains("--private-key, SLUICE_BROKER_PRIVATE_KEY"))
        let settings = try EffectiveConfiguration(
            .sidecar, environment: ["SLUICE_RUN": "r", "SLUICE_DATA": "d"], file: nil)
        #expect(settings.number("segment-budget-mib") == 1_024)
    }

    @Test("of two names for the database, that of the nearer place counts")
    func stores() throws {
        let file = try ConfigurationFile(
            path: "f",
            data: Data(#"{"run": "r", "data": "d", "sidecar": {"store": "a.sqlite"}}"#.utf8))
        let settings = try EffectiveConfiguration(
            .sidecar, flags: ["store-file": "secret"], environment: [:], file: file)
        #expect(settings.text("store") == nil)
        #expect(settings.text("store-file") == "secret")
        let other = try EffectiveConfiguration(
            .sidecar, environment: ["SLUICE_STORE": "b.sqlite"], file: file)
        #expect(other.text("store") == "b.sqlite")
    }

    @Test("a worker's lists, numbers, fractions and words")
    func worker() throws {
        let file = try ConfigurationFile(
            path: "f",
            data: Data(
                #"""
                {"worker": {"broker": ["a:1", "b:2"], "model": "m,n=o/p", "slots": "auto",
                 "engine": [], "tokens-per-second": 2.5, "region": "eu"}}
                """#.utf8))
        #expect(file.processes == [.worker])
        let settings = try EffectiveConfiguration(
            .worker, environment: ["SLUICE_WORKER_OUTPUT_PRICE": "7"], file: file)
        #expect(settings.list("broker") == ["a:1", "b:2"])
        #expect(settings.list("model") == ["m", "n=o/p"])
        #expect(settings.list("engine") == [])
        #expect(settings.text("slots") == "auto")
        #expect(settings.number("slots") == nil)
        #expect(settings.text("tokens-per-second") == "2.5")
        #expect(settings.number("output-price") == 7)
        #expect(settings.required("supply-type") == "community")
        #expect(
            try EffectiveConfiguration(
                .worker, flags: ["slots": "3", "broker": "c:3"], environment: [:], file: file
            ).number("slots") == 3)
    }

    @Test(
        "what is wrong with a worker's settings",
        arguments: [
            (#"{"worker": {"slots": "many"}}"#, "from 1 to 65536, or auto"),
            (#"{"worker": {"slots": 0}}"#, "from 1 to 65536, or auto"),
            (#"{"worker": {"broker": ["a", ""]}}"#, "none of them empty"),
            (#"{"worker": {"broker": ["a,b"]}}"#, "a list"),
            (#"{"worker": {"tokens-per-second": 0}}"#, "from 0.001"),
            (#"{"worker": {"data-policy": "none"}}"#, "no-training"),
            (#"{"worker": {"run": "r"}}"#, "nearest that is: run"),
        ])
    func workerProblems(_ text: String, _ expected: String) {
        let found = problems(text)
        #expect(found.count == 1)
        #expect(found.first?.contains(expected) == true, "\(found)")
    }

    @Test("a gateway's truths, lists and numbers; what is wrong with them")
    func gateway() throws {
        let file = try ConfigurationFile(
            path: "f",
            data: Data(
                #"""
                {"gateway": {"broker": ["a:1"], "model": ["fast=x|y", "z"], "listed-only": true,
                 "port": 443}, "worker": {"slots": 2}}
                """#.utf8))
        #expect(file.processes == [.worker, .gateway])
        let settings = try EffectiveConfiguration(
            .gateway, environment: ["SLUICE_GATEWAY_PORT": "444"], file: file)
        #expect(settings.list("model") == ["fast=x|y", "z"])
        #expect(settings.isTrue("listed-only"))
        #expect(settings.number("port") == 444)
        #expect(settings.number("metrics-port") == nil)
        #expect(settings.number("grace-seconds") == 30)
        #expect(
            try EffectiveConfiguration(.gateway, environment: [:], file: nil)
                .isTrue("listed-only") == false)
        #expect(
            problems(#"{"gateway": {"listed-only": 1}}"#).first?.contains("true or false") == true)
        #expect(problems(#"{"gateway": {"body-bytes": 3}}"#).first?.contains("from 1024") == true)
    }

    @Test("a file of a worker alone is asked for nothing of broker and sidecar")
    func processes() throws {
        #expect(
            try ConfigurationFile(
                path: "f", data: Data(#"{"run": "r", "worker": {"slots": 1}}"#.utf8)
            ).processes == ConfiguredProcess.allCases)
        #expect(
            try ConfigurationFile(path: "f", data: Data("{}".utf8)).processes
                == ConfiguredProcess.allCases)
    }

    @Test("what a running process takes over is told apart from what waits for its next start")
    func reloading() throws {
        let before = try settings()
        let after = try settings(flags: [
            "certificate": "new.pem", "client-ca": "clients.pem", "shards": "5", "port": "1",
        ])
        #expect(after.waiting(after: before) == ["broker.port", "broker.shards"])
        #expect(try settings().waiting(after: before).isEmpty)
    }
}
