// swift-tools-version: 6.3

// The examples as a package of their own, as a user of the SDKs would write it. In place of the
// path, your own package names this repository's address and a version.

import PackageDescription

let sdk = { (name: String) in Target.Dependency.product(name: name, package: "sluice") }

let package = Package(
    name: "sluice-examples",
    platforms: [.macOS(.v15), .iOS(.v18)],
    dependencies: [.package(name: "sluice", path: "..")],
    targets: [
        .executableTarget(name: "ask", dependencies: [sdk("SluiceClient")], path: "Ask"),
        .executableTarget(name: "shout", dependencies: [sdk("SluiceSupplier")], path: "Shout"),
        .testTarget(
            name: "ExampleTests",
            dependencies: [sdk("SluiceClient"), sdk("SluiceSupplier"), sdk("SluiceTesting")],
            path: "Tests"),
    ],
    swiftLanguageModes: [.v6]
)
