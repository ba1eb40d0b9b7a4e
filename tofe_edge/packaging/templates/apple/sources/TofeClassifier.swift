// SPDX-License-Identifier: Apache-2.0
import CoreGraphics
import Foundation
import ImageIO

/// Classifies images with @NAME@.
///
/// One instance holds one loaded model. Its work is done off the main thread, one call after the other. Everything that goes
/// wrong is a `TofeError`.
public actor TofeClassifier {
    /// Which of the model's budgets this instance runs.
    public nonisolated let budget: TofeBudget
    private let network: Network
    private let labels: [String]

    /// Checks and loads the model.
    public init(configuration: TofeConfiguration = TofeConfiguration()) async throws {
        // Reading some megabytes and compiling a model must not hold up whoever calls, the main actor least of all.
        let task = Task.detached(priority: .userInitiated) {
            (try Resources.labels(), try await Network.load(configuration))
        }
        (labels, network) = try await task.value
        budget = configuration.budget
    }

    /// The likeliest classes of an image, best first.
    ///
    /// - Parameters:
    ///   - image: of any size. Colours are converted to sRGB; what is transparent is put on white.
    ///   - orientation: how the image has to be turned to be upright, as EXIF says it; a `CGImage` knows no orientation.
    ///   - top: how many classes, at least 1; fewer come back if the model has fewer.
    public func classify(
        _ image: CGImage, orientation: CGImagePropertyOrientation = .up, top: Int = 5
    ) async throws -> [Prediction] {
        guard top >= 1 else { throw TofeError.input("top must be at least 1, not \(top)") }
        let pixels = try Pixels(image, orientation: orientation)
        let outputs = try network.run(Preprocessing.square(pixels))
        return topClasses(outputs.logits, labels: labels, count: top)
    }

    /// Runs the model on the images that it brings and compares with what it computed where it was converted: whether this
    /// device, its system and this code give what was measured.
    public func selfTest() async throws -> SelfTestResult {
        try SelfTest.run(network)
    }
}
