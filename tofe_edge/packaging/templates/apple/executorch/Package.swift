// swift-tools-version:5.9
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

let package = Package(
    name: "@MODULE@",
    platforms: [.iOS("@IOS@"), .macOS("@MACOS@")],
    products: [.library(name: "@MODULE@", targets: ["@MODULE@"])],
    dependencies: [
        // ExecuTorch's prebuilt frameworks; a release is a branch there. It is the one that the model was converted with.
        .package(url: "https://github.com/pytorch/executorch.git", branch: "swiftpm-@EXECUTORCH@"),
    ],
    targets: [
        .target(
            name: "@MODULE@",
            dependencies: [
@PRODUCTS@
            ],
            path: "Sources/Classifier",
            resources: [.copy("Model"), .process("PrivacyInfo.xcprivacy")],
            // Backends and kernels register themselves when the app starts; nothing refers to them, so a linker would leave
            // them out. SwiftPM takes such flags from packages added by path.
            linkerSettings: [.unsafeFlags(["-Xlinker", "-all_load"])]
        ),
        .testTarget(name: "@MODULE@Tests", dependencies: ["@MODULE@"], path: "Tests/ClassifierTests"),
    ]
)
