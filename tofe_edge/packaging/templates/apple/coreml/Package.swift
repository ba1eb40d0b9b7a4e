// swift-tools-version:5.9
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

let package = Package(
    name: "@MODULE@",
    platforms: [.iOS("@IOS@"), .macOS("@MACOS@")],
    products: [.library(name: "@MODULE@", targets: ["@MODULE@"])],
    targets: [
        .target(
            name: "@MODULE@",
            path: "Sources/Classifier",
            // A folder that is copied is not looked into: Xcode would compile the model in it to something that no longer has
            // its checksum, and `swift build` would take it apart. It is compiled on the device, see CompiledModel.swift.
            resources: [.copy("Model"), .process("PrivacyInfo.xcprivacy")]
        ),
        .testTarget(name: "@MODULE@Tests", dependencies: ["@MODULE@"], path: "Tests/ClassifierTests"),
    ]
)
