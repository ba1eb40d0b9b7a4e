// SPDX-License-Identifier: Apache-2.0
import CoreGraphics
import Foundation
import ImageIO

extension Pixels {
    /// The pixels of an image in a colour space, sRGB by default; what is transparent is put on white.
    init(
        _ image: CGImage, orientation: CGImagePropertyOrientation,
        space: CGColorSpace? = CGColorSpace(name: CGColorSpace.sRGB)
    ) throws {
        let (width, height) = (image.width, image.height)
        guard width > 0, height > 0, width * height <= Preprocessing.maxPixels else {
            throw TofeError.input("it has \(width) x \(height) pixels, not 1 to \(Preprocessing.maxPixels)")
        }
        // White, which transparent pixels are drawn over.
        var bytes = [UInt8](repeating: 255, count: width * height * Pixels.stored)
        let drawn = bytes.withUnsafeMutableBytes { buffer -> Bool in
            guard let space,
                let context = CGContext(
                    data: buffer.baseAddress, width: width, height: height, bitsPerComponent: 8,
                    bytesPerRow: width * Pixels.stored, space: space,
                    bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            else { return false }
            context.interpolationQuality = .none
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return true
        }
        guard drawn else { throw TofeError.input("its pixels cannot be drawn") }
        self.init(bytes: bytes, width: width, height: height, exifOrientation: Int(orientation.rawValue))
    }
}

/// A golden image as it is: drawn in its own colour space, so that no number is converted and the model alone is tested.
func readSquare(_ file: String) throws -> Square {
    let content = try Resources.content(file)
    guard let source = CGImageSourceCreateWithData(content as CFData, nil),
        let image = CGImageSourceCreateImageAtIndex(source, 0, nil),
        image.width == Facts.imageSize, image.height == Facts.imageSize
    else { throw TofeError.damaged("\(file) is not an image of \(Facts.imageSize) x \(Facts.imageSize) pixels") }
    let pixels = try Pixels(image, orientation: .up, space: image.colorSpace)
    let bytes = PillowResize.window(
        pixels, width: pixels.width, height: pixels.height, filter: Facts.filter, left: 0, top: 0, size: pixels.width)
    return Square(side: pixels.width, bytes: bytes)
}
