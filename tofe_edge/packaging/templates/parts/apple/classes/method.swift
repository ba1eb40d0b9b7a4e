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
        return topClasses(outputs.values, labels: labels, count: top)
    }
