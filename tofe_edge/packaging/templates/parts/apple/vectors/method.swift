    /// @GIVES@
    ///
    /// - Parameters:
    ///   - image: of any size. Colours are converted to sRGB; what is transparent is put on white.
    ///   - orientation: how the image has to be turned to be upright, as EXIF says it; a `CGImage` knows no orientation.
    public func @CALL@(_ image: CGImage, orientation: CGImagePropertyOrientation = .up) async throws -> [Float] {
        let pixels = try Pixels(image, orientation: orientation)
        let values = try network.run(Preprocessing.square(pixels)).values
        guard values.allSatisfy(\.isFinite) else {
            throw TofeError.runtime("it gave numbers that are infinite or not numbers")
        }
        return values
    }
