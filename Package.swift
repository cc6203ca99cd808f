// swift-tools-version: 6.3

// The architecture diagram of Sluice. Modules are listed by layer, lowest first. A module may use
// only modules listed above it, and only from the layers its own layer is allowed to see: an
// upward edge stops every build with a sentence that names it.

import PackageDescription

enum Layer: String {
    /// C headers of the system, no logic.
    case foreign
    /// Pure rules: no I/O, clock, thread, `async` or unsafe code.
    case core
    /// The only Swift that is unsafe or calls the kernel.
    case runtime
    /// What API clients and suppliers link: builds without Linux, OpenSSL or io_uring.
    case sdk
    /// Assembly of the layers below into programs.
    case product
    /// `main` and option parsing.
    case command

    var mayUse: Set<Layer> {
        switch self {
        case .foreign: []
        case .core: [.core]
        case .runtime: [.foreign, .core, .runtime]
        case .sdk: [.core, .sdk]
        case .product: [.core, .runtime, .sdk, .product]
        case .command: [.core, .runtime, .sdk, .product]
        }
    }

    var folder: String {
        switch self {
        case .foreign: "Foreign"
        case .core: "Core"
        case .runtime: "Runtime"
        case .sdk: "SDK"
        case .product: "Product"
        case .command: "Command"
        }
    }
}

struct Module {
    let layer: Layer
    let name: String
    let uses: [String]
    let packages: [Target.Dependency]
    let resources: [Resource]

    init(
        _ layer: Layer, _ name: String, uses: [String] = [], packages: [Target.Dependency] = [],
        resources: [Resource] = []
    ) {
        self.layer = layer
        self.name = name
        self.uses = uses
        self.packages = packages
        self.resources = resources
    }
}

let basicContainers = Target.Dependency.product(
    name: "BasicContainers", package: "swift-collections")
let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioConcurrency = Target.Dependency.product(
    name: "NIOConcurrencyHelpers", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioTLS = Target.Dependency.product(name: "NIOTLS", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioEmbedded = Target.Dependency.product(name: "NIOEmbedded", package: "swift-nio")
let nioHTTPTypes = Target.Dependency.product(name: "NIOHTTPTypes", package: "swift-nio-extras")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let grdb = Target.Dependency.product(name: "GRDB", package: "GRDB.swift")
let sqlite = Target.Dependency.product(name: "GRDBSQLite", package: "GRDB.swift")
let asyncHTTPClient = Target.Dependency.product(
    name: "AsyncHTTPClient", package: "async-http-client")
let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
let hummingbirdCore = Target.Dependency.product(name: "HummingbirdCore", package: "hummingbird")
let hummingbirdTLS = Target.Dependency.product(name: "HummingbirdTLS", package: "hummingbird")
let httpTypes = Target.Dependency.product(name: "HTTPTypes", package: "swift-http-types")
let serviceLifecycle = Target.Dependency.product(
    name: "ServiceLifecycle", package: "swift-service-lifecycle")
let argumentParser = Target.Dependency.product(
    name: "ArgumentParser", package: "swift-argument-parser")

let modules: [Module] = [
    Module(.foreign, "CLinuxIO"),
    Module(.foreign, "COpenSSL"),
    Module(.foreign, "CPostgres"),

    Module(.core, "SluiceWire"),
    Module(.core, "SluiceSession", uses: ["SluiceWire"]),
    Module(.core, "SluiceRecordFormat", uses: ["SluiceWire"]),
    Module(.core, "SluiceLedgerCore", uses: ["SluiceWire", "SluiceRecordFormat"]),
    Module(
        .core, "SluiceBrokerCore", uses: ["SluiceWire", "SluiceRecordFormat", "SluiceLedgerCore"],
        packages: [basicContainers]),

    Module(.runtime, "LockFree"),
    Module(.runtime, "ContentArena", uses: ["CLinuxIO"]),
    Module(.runtime, "LinuxIO", uses: ["CLinuxIO"]),
    Module(.runtime, "TLSEngine", uses: ["COpenSSL", "ContentArena"]),
    Module(
        .runtime, "SecureTransport", uses: ["CLinuxIO", "ContentArena", "LinuxIO", "TLSEngine"]),
    Module(.runtime, "SharedMemory", uses: ["CLinuxIO", "SluiceWire", "SluiceRecordFormat"]),
    Module(.runtime, "PostgresConnection", uses: ["CPostgres"]),
    Module(.runtime, "EventLoopTasks", packages: [nioCore]),
    Module(.runtime, "SQLiteBinding", packages: [grdb, sqlite]),

    Module(
        .sdk, "SluiceInMemory", uses: ["SluiceWire", "SluiceRecordFormat", "SluiceBrokerCore"],
        packages: [basicContainers]),
    Module(
        .sdk, "SluiceTransport", uses: ["SluiceWire", "SluiceSession"],
        packages: [nioCore, nioPosix, nioTLS, nioSSL, logging]),
    Module(
        .sdk, "SluiceClient", uses: ["SluiceWire", "SluiceSession", "SluiceTransport"],
        packages: [logging]),
    Module(
        .sdk, "SluiceSupplier", uses: ["SluiceWire", "SluiceSession", "SluiceTransport"],
        packages: [logging]),
    Module(
        .sdk, "SluiceTesting",
        uses: [
            "SluiceWire", "SluiceSession", "SluiceRecordFormat", "SluiceBrokerCore",
            "SluiceInMemory", "SluiceTransport", "SluiceClient", "SluiceSupplier",
        ]),

    Module(
        .product, "Store",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SluiceLedgerCore", "SharedMemory",
            "PostgresConnection", "SQLiteBinding",
        ], packages: [grdb]),
    Module(
        .product, "Privacy", uses: ["SluiceLedgerCore", "TLSEngine", "Store"]),
    Module(
        .product, "Sidecar",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SluiceLedgerCore", "SharedMemory", "LinuxIO",
            "TLSEngine", "Store",
        ]),
    Module(
        .product, "Broker",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SluiceBrokerCore", "LockFree", "ContentArena",
            "LinuxIO", "TLSEngine", "SecureTransport", "SharedMemory",
        ], packages: [basicContainers]),
    Module(.product, "JSONScanning"),
    Module(
        .product, "Worker",
        uses: ["SluiceWire", "SluiceTransport", "SluiceSupplier", "JSONScanning"],
        packages: [asyncHTTPClient, nioCore, nioHTTP1, logging],
        resources: [.embedInCode("Resources/demo.txt")]),
    Module(
        .product, "Gateway",
        uses: ["SluiceWire", "EventLoopTasks", "SluiceClient", "JSONScanning"],
        packages: [
            hummingbird, hummingbirdCore, hummingbirdTLS, httpTypes, serviceLifecycle, nioCore,
            nioPosix, nioHTTP1, nioHTTPTypes, nioSSL, logging,
        ]),
    Module(
        .product, "Development",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SharedMemory", "TLSEngine", "LinuxIO", "Store",
        ]),
    Module(
        .product, "LoadGenerator",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "ContentArena", "LinuxIO", "TLSEngine",
            "SecureTransport", "SharedMemory",
        ]),

    Module(.product, "ProcessConfiguration"),
    Module(
        .product, "Telemetry",
        uses: ["SluiceWire", "SluiceRecordFormat", "SharedMemory", "Store"],
        packages: [asyncHTTPClient, nioCore, nioPosix, nioHTTP1, nioConcurrency]),

    Module(
        .command, "sluice-broker",
        uses: ["SluiceBrokerCore", "LinuxIO", "Broker", "ProcessConfiguration"],
        packages: [argumentParser]),
    Module(
        .command, "sluice-sidecar",
        uses: ["LinuxIO", "TLSEngine", "Store", "Sidecar", "ProcessConfiguration"],
        packages: [argumentParser]),
    Module(
        .command, "sluice-worker",
        uses: ["SluiceWire", "LinuxIO", "SluiceSupplier", "Worker", "ProcessConfiguration"],
        packages: [argumentParser, logging]),
    Module(
        .command, "sluice-gateway",
        uses: ["LinuxIO", "SluiceClient", "Gateway", "ProcessConfiguration"],
        packages: [argumentParser]),
    Module(
        .command, "sluice",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SluiceLedgerCore", "LinuxIO", "TLSEngine",
            "SharedMemory", "SluiceClient", "Store", "Privacy", "Development", "LoadGenerator",
            "Telemetry", "ProcessConfiguration",
        ],
        packages: [argumentParser, asyncHTTPClient]),
]

let settings: [SwiftSetting] = [
    .treatAllWarnings(as: .error),
    .strictMemorySafety(),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// Runtime modules may hand out spans over memory they own.
let runtimeSettings: [SwiftSetting] = settings + [.enableExperimentalFeature("Lifetimes")]

/// Tests leave strict memory safety off; everything else holds for them too.
let testSettings: [SwiftSetting] = [
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

func target(at index: Int) -> Target {
    let module = modules[index]
    for name in module.uses {
        guard let used = modules[..<index].first(where: { $0.name == name }) else {
            fatalError("\(module.name) uses \(name), which is not listed above it")
        }
        guard module.layer.mayUse.contains(used.layer) else {
            fatalError(
                "\(module.name) (\(module.layer)) must not use \(name) (\(used.layer))")
        }
    }
    let path = "Sources/\(module.layer.folder)/\(module.name)"
    let uses = module.uses.map { Target.Dependency.target(name: $0) }
    switch module.layer {
    case .foreign:
        let (library, package): (String?, String) =
            switch module.name {
            case "COpenSSL": ("openssl", "libssl-dev")
            case "CPostgres": ("libpq", "libpq-dev")
            default: (nil, "linux-libc-dev")
            }
        return .systemLibrary(
            name: module.name, path: path, pkgConfig: library, providers: [.apt([package])])
    case .command:
        return .executableTarget(
            name: module.name, dependencies: uses + module.packages, path: path,
            swiftSettings: settings)
    case .core, .runtime, .sdk, .product:
        return .target(
            name: module.name, dependencies: uses + module.packages, path: path,
            resources: module.resources,
            swiftSettings: module.layer == .runtime ? runtimeSettings : settings)
    }
}

func tests(_ name: String, in folder: String, uses: [String], packages: [Target.Dependency] = [])
    -> Target
{
    .testTarget(
        name: name, dependencies: uses.map { .target(name: $0) } + packages,
        path: "Tests/\(folder)/\(name)", swiftSettings: testSettings)
}

/// The simulator: clients, broker and suppliers in one thread from a seed.
let simulatorTargets: [Target] = [
    .target(
        name: "Simulator",
        dependencies: [
            "SluiceWire", "SluiceSession", "SluiceRecordFormat", "SluiceLedgerCore",
            "SluiceBrokerCore", "SluiceInMemory",
        ],
        path: "Tests/Simulator/Simulator", swiftSettings: settings),
    tests("SimulatorTests", in: "Simulator", uses: ["Simulator"]),
    // `Tools/fuzz` builds each target of these with libFuzzer, in a package of its own.
    .target(
        name: "FuzzTargets",
        dependencies: [
            "SluiceWire", "SluiceSession", "SluiceRecordFormat", "SluiceBrokerCore",
            "TLSEngine", "SharedMemory", "SluiceInMemory", "Sidecar", "JSONScanning", "Worker",
            "ProcessConfiguration",
        ],
        path: "Tests/Fuzz/FuzzTargets", swiftSettings: testSettings),
    tests("FuzzTests", in: "Fuzz", uses: ["SluiceBrokerCore", "FuzzTargets"]),
    tests(
        "SluiceTestingTests", in: "SDK",
        uses: ["SluiceWire", "SluiceClient", "SluiceSupplier", "SluiceTesting"]),
]

/// Programs of this package's own developers: `Tools/` sets the variable.
let toolTargets: [Target] =
    switch Context.environment["SLUICE_TOOLS"] {
    case nil: []
    default:
        [
            .executableTarget(
                name: "simulate", dependencies: ["Simulator"], path: "Tests/Simulator/simulate",
                swiftSettings: settings)
        ]
    }

let testTargets: [Target] = [
    tests(
        "SluiceBrokerCoreTests", in: "Core",
        uses: [
            "SluiceWire", "SluiceSession", "SluiceRecordFormat", "SluiceLedgerCore",
            "SluiceBrokerCore", "SluiceInMemory",
        ], packages: [basicContainers]),
    tests(
        "DevelopmentTests", in: "Product",
        uses: ["SluiceWire", "SluiceRecordFormat", "SharedMemory", "Store", "Development"]),
    // Real processes, real TLS, the built programs.
    tests(
        "SystemTests", in: "System",
        uses: ["SluiceBrokerCore", "SluiceClient", "Development", "TLSEngine"]),
    tests("ProcessConfigurationTests", in: "Product", uses: ["ProcessConfiguration"]),
    tests("SluiceWireTests", in: "Core", uses: ["SluiceWire"]),
    tests("SluiceRecordFormatTests", in: "Core", uses: ["SluiceWire", "SluiceRecordFormat"]),
    tests(
        "SluiceLedgerCoreTests", in: "Core",
        uses: ["SluiceWire", "SluiceRecordFormat", "SluiceLedgerCore"]),
    .target(
        name: "RecordTestSupport", dependencies: ["Store"], path: "Tests/Support/RecordTestSupport",
        swiftSettings: testSettings),
    tests(
        "SharedMemoryTests", in: "Runtime",
        uses: ["SluiceWire", "SluiceRecordFormat", "SharedMemory", "RecordTestSupport"]),
    tests(
        "StoreTests", in: "Product",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SluiceLedgerCore", "PostgresConnection",
            "SQLiteBinding", "Store", "RecordTestSupport",
        ],
        packages: [grdb]),
    tests(
        "PrivacyTests", in: "Product",
        uses: ["SluiceLedgerCore", "TLSEngine", "Store", "Privacy", "RecordTestSupport"]),
    tests(
        "SidecarTests", in: "Product",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SluiceLedgerCore", "SharedMemory", "TLSEngine",
            "Store", "Sidecar", "sluice-sidecar", "RecordTestSupport",
        ],
        packages: [grdb]),
    tests(
        "WorkerTests", in: "Product",
        uses: ["SluiceWire", "SluiceTransport", "SluiceSupplier", "JSONScanning", "Worker"],
        packages: [nioCore, nioPosix, nioHTTP1]),
    tests("JSONScanningTests", in: "Product", uses: ["JSONScanning"]),
    tests(
        "GatewayTests", in: "Product",
        uses: ["SluiceWire", "EventLoopTasks", "SluiceClient", "JSONScanning", "Gateway"],
        packages: [httpTypes, nioCore, nioEmbedded, nioPosix]),
    tests("LoadGeneratorTests", in: "Product", uses: ["LoadGenerator"]),
    tests(
        "TelemetryTests", in: "Product",
        uses: [
            "SluiceWire", "SluiceRecordFormat", "SharedMemory", "Store", "Telemetry",
            "RecordTestSupport",
        ], packages: [nioCore, nioPosix, nioHTTP1]),
    tests("SluiceSessionTests", in: "Core", uses: ["SluiceWire", "SluiceSession"]),
    tests("LockFreeTests", in: "Runtime", uses: ["LockFree", "LinuxIO"]),
    tests("ContentArenaTests", in: "Runtime", uses: ["LockFree", "LinuxIO", "ContentArena"]),
    tests(
        "TLSEngineTests", in: "Runtime", uses: ["COpenSSL", "TLSEngine", "ContentArena"]),
    tests("LinuxIOTests", in: "Runtime", uses: ["LinuxIO"]),
    tests(
        "SecureTransportTests", in: "Runtime",
        uses: ["SecureTransport", "TLSEngine", "LinuxIO", "ContentArena"]),
    tests(
        "SDKTests", in: "SDK",
        uses: [
            "SluiceWire", "SluiceSession", "SluiceTransport", "SluiceClient", "SluiceSupplier",
            "SluiceTesting",
        ], packages: [nioCore, nioPosix, nioSSL]),
]

/// What users of the SDKs read first. `Examples/Package.swift` is how a user's own package has them.
let exampleTargets: [Target] = [
    .executableTarget(
        name: "example-ask", dependencies: ["SluiceClient"], path: "Examples/Ask",
        swiftSettings: testSettings),
    .executableTarget(
        name: "example-shout", dependencies: ["SluiceSupplier"], path: "Examples/Shout",
        swiftSettings: testSettings),
    .testTarget(
        name: "ExampleTests", dependencies: ["SluiceClient", "SluiceSupplier", "SluiceTesting"],
        path: "Examples/Tests", swiftSettings: testSettings),
]

/// What the broker is measured beside over its own transport. The other peers, and how to get
/// them, stand in `Benchmarks/`.
let benchmarkTargets: [Target] = [
    .executableTarget(
        name: "bare-relay",
        dependencies: ["SluiceWire", "ContentArena", "LinuxIO", "TLSEngine", "SecureTransport"],
        path: "Benchmarks/bare-relay",
        swiftSettings: testSettings + [.enableExperimentalFeature("Lifetimes")])
]

let package = Package(
    name: "sluice",
    platforms: [.macOS(.v15), .iOS(.v18)],
    // Libraries only. SwiftPM resolves for a user all that any declared product reaches, so the
    // programs are not declared: each executable target is a product of its own name here, in the
    // root package, and users of a library resolve NIO, NIOSSL and swift-log alone.
    products: [
        .library(name: "SluiceClient", targets: ["SluiceClient"]),
        .library(name: "SluiceSupplier", targets: ["SluiceSupplier"]),
        .library(name: "SluiceTesting", targets: ["SluiceTesting"]),
    ],
    dependencies: [
        .package(
            url: "https://github.com/apple/swift-argument-parser", .upToNextMinor(from: "1.8.2")),
        .package(url: "https://github.com/apple/swift-collections", .upToNextMinor(from: "1.6.0")),
        .package(url: "https://github.com/apple/swift-log", .upToNextMinor(from: "1.16.2")),
        .package(url: "https://github.com/apple/swift-nio", .upToNextMinor(from: "2.101.2")),
        .package(url: "https://github.com/apple/swift-nio-ssl", .upToNextMinor(from: "2.37.6")),
        .package(
            url: "https://github.com/apple/swift-nio-extras", .upToNextMinor(from: "1.35.2")),
        .package(url: "https://github.com/groue/GRDB.swift", .upToNextMinor(from: "7.10.0")),
        .package(
            url: "https://github.com/hummingbird-project/hummingbird",
            .upToNextMinor(from: "2.28.1")),
        .package(url: "https://github.com/apple/swift-http-types", .upToNextMinor(from: "1.8.0")),
        .package(
            url: "https://github.com/swift-server/swift-service-lifecycle",
            .upToNextMinor(from: "2.13.0")),
        .package(
            url: "https://github.com/swift-server/async-http-client",
            .upToNextMinor(from: "1.37.0")),
    ],
    targets: modules.indices.map { target(at: $0) } + testTargets + exampleTargets
        + benchmarkTargets + simulatorTargets + toolTargets,
    swiftLanguageModes: [.v6]
)
