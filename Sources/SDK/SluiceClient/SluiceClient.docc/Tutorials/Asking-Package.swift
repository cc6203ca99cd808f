// swift-tools-version: 6.3

import PackageDescription

let package = Package(
    name: "ask",
    platforms: [.macOS(.v15), .iOS(.v18)],
    dependencies: [.package(name: "sluice", path: "../sluice")],
    targets: [
        .executableTarget(
            name: "ask",
            dependencies: [.product(name: "SluiceClient", package: "sluice")],
            path: "Ask")
    ]
)
