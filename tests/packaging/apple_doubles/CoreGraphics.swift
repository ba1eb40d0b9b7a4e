// What the package uses of Core Graphics: images of 8-bit sRGB with straight alpha, drawn at their own size.
@_exported import Foundation

public final class CGColorSpace {
    public static let sRGB = "sRGB"
    public init?(name: String) { if name != CGColorSpace.sRGB { return nil } }
}

public enum CGImageAlphaInfo: UInt32 { case noneSkipLast = 5 }
public enum CGInterpolationQuality { case none }

public final class CGImage: @unchecked Sendable {
    public let width: Int
    public let height: Int
    let rgba: [UInt8]

    public init(width: Int, height: Int, rgba: [UInt8]) {
        precondition(rgba.count == width * height * 4)
        (self.width, self.height, self.rgba) = (width, height, rgba)
    }
}

public final class CGContext {
    private let data: UnsafeMutablePointer<UInt8>
    private let width: Int
    private let height: Int
    public var interpolationQuality = CGInterpolationQuality.none

    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: UInt32
    ) {
        guard let data, bitsPerComponent == 8, bytesPerRow == 4 * width, bitmapInfo == CGImageAlphaInfo.noneSkipLast.rawValue
        else { return nil }
        (self.data, self.width, self.height) = (data.assumingMemoryBound(to: UInt8.self), width, height)
    }

    public func draw(_ image: CGImage, in place: CGRect) {
        precondition(place == CGRect(x: 0, y: 0, width: width, height: height))
        precondition((image.width, image.height) == (width, height))
        for pixel in stride(from: 0, to: 4 * width * height, by: 4) {
            let alpha = Int(image.rgba[pixel + 3])
            for channel in pixel..<(pixel + 3) {
                data[channel] = UInt8((Int(image.rgba[channel]) * alpha + Int(data[channel]) * (255 - alpha) + 127) / 255)
            }
        }
    }
}
