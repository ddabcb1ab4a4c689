// swift-tools-version:5.9
// Where there is an XCFramework (package.sh makes it on a Mac), it has the library for iOS; else a system's library is linked.
import Foundation
import PackageDescription

let framework = "GraftFFI.xcframework"
let here = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
let isPacked = FileManager.default.fileExists(atPath: here.appendingPathComponent(framework).path)

let package = Package(
    name: "Graft",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "Graft", targets: ["Graft"])],
    targets: [
        isPacked
            ? .binaryTarget(name: "GraftFFI", path: framework)
            : .systemLibrary(name: "GraftFFI", path: "Sources/GraftFFI/include", pkgConfig: "graft"),
        .target(name: "Graft", dependencies: ["GraftFFI"], path: "Sources/Graft"),
    ]
)
