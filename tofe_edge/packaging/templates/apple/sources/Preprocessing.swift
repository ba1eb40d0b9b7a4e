// SPDX-License-Identifier: Apache-2.0

/// The square that the model sees: `side x side x 3` bytes, rows first.
struct Square: Equatable {
    let side: Int
    let bytes: [UInt8]
}

/// From an image to the model's input, equal to the reference in every bit; the numbers are those of `preprocessing.json`.
enum Preprocessing {
    static let maxPixels = 100_000_000

    /// Resized, and its centre cut out.
    static func square(_ image: Pixels) throws -> Square {
        let size = Facts.imageSize
        var (width, height) = (image.width, image.height)
        if let short = Facts.shortSide {
            let long = Int(Double(short * max(width, height)) / Double(min(width, height)))
            guard short * long <= maxPixels else { throw bad(image, "too narrow to resize its short side to \(short)") }
            (width, height) = width <= height ? (short, long) : (long, short)
        }
        guard width >= size, height >= size else { throw bad(image, "smaller than \(size) x \(size)") }
        // Halves to the even number, as the reference rounds.
        let left = Int((Double(width - size) / 2).rounded(.toNearestOrEven))
        let top = Int((Double(height - size) / 2).rounded(.toNearestOrEven))
        let bytes = PillowResize.window(
            image, width: width, height: height, filter: Facts.filter, left: left, top: top, size: size)
        return Square(side: size, bytes: bytes)
    }

    /// `(value / 255 - mean) / std`, in single precision and in this order: `3 x side x side` numbers, channels first.
    static func normalize(_ square: Square) -> [Float] {
        let plane = square.side * square.side
        var result = [Float](repeating: 0, count: PillowResize.channels * plane)
        for channel in 0..<PillowResize.channels {
            let (mean, std) = (Facts.mean[channel], Facts.std[channel])
            for pixel in 0..<plane {
                let value = Float(square.bytes[pixel * PillowResize.channels + channel]) / 255
                result[channel * plane + pixel] = (value - mean) / std
            }
        }
        return result
    }

    private static func bad(_ image: Pixels, _ what: String) -> TofeError {
        .input("it has \(image.width) x \(image.height) pixels, which is \(what)")
    }
}
