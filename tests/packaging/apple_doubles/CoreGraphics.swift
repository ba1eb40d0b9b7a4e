// What the package uses of Core Graphics: images of 8 bits with straight alpha, drawn at their own size.
@_exported import Foundation

public final class CGColorSpace: @unchecked Sendable {
    public static let sRGB = "sRGB"
    /// What images without a profile are in; to draw them in another space changes their numbers.
    public static let ofTheDevice = CGColorSpace()
    public init?(name: String) { if name != CGColorSpace.sRGB { return nil } }
    private init() {}
}

public enum CGImageAlphaInfo: UInt32 { case noneSkipLast = 5 }
public enum CGInterpolationQuality { case none }

public final class CGImage: @unchecked Sendable {
    public let width: Int
    public let height: Int
    public let colorSpace: CGColorSpace?
    let rgba: [UInt8]

    public init(width: Int, height: Int, rgba: [UInt8], space: CGColorSpace? = CGColorSpace(name: CGColorSpace.sRGB)) {
        precondition(rgba.count == width * height * 4)
        (self.width, self.height, self.rgba, colorSpace) = (width, height, rgba, space)
    }
}

public final class CGContext {
    private let data: UnsafeMutablePointer<UInt8>
    private let width: Int
    private let height: Int
    private let space: CGColorSpace
    public var interpolationQuality = CGInterpolationQuality.none

    public init?(
        data: UnsafeMutableRawPointer?, width: Int, height: Int, bitsPerComponent: Int, bytesPerRow: Int, space: CGColorSpace,
        bitmapInfo: UInt32
    ) {
        guard let data, bitsPerComponent == 8, bytesPerRow == 4 * width, bitmapInfo == CGImageAlphaInfo.noneSkipLast.rawValue
        else { return nil }
        (self.data, self.width, self.height) = (data.assumingMemoryBound(to: UInt8.self), width, height)
        self.space = space
    }

    public func draw(_ image: CGImage, in place: CGRect) {
        precondition(place == CGRect(x: 0, y: 0, width: width, height: height))
        precondition((image.width, image.height) == (width, height))
        let isMatched = (image.colorSpace === CGColorSpace.ofTheDevice) != (space === CGColorSpace.ofTheDevice)
        for pixel in stride(from: 0, to: 4 * width * height, by: 4) {
            let alpha = Int(image.rgba[pixel + 3])
            for channel in pixel..<(pixel + 3) {
                let value = isMatched ? Int(image.rgba[channel] / 2) : Int(image.rgba[channel])
                data[channel] = UInt8((value * alpha + Int(data[channel]) * (255 - alpha) + 127) / 255)
            }
        }
    }
}
