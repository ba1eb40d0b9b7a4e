// What the package uses of Core Video: buffers of 32-bit BGRA, with rows longer than the image.
@_exported import ImageIO
import Foundation

public typealias CVReturn = Int32
public let kCVReturnSuccess: CVReturn = 0
public let kCVPixelFormatType_32BGRA: UInt32 = 0x4247_5241
public let kCVPixelBufferIOSurfacePropertiesKey = "IOSurfaceProperties"
public final class CFAllocator: Sendable {}
public let kCFAllocatorDefault: CFAllocator? = nil

public struct CVPixelBufferLockFlags: OptionSet, Sendable {
    public let rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public final class CVPixelBuffer {
    public let side: Int
    public let rowBytes: Int
    public let base: UnsafeMutableRawPointer
    public fileprivate(set) var locks = 0

    init(side: Int) {
        (self.side, rowBytes) = (side, 4 * side + 64)
        base = UnsafeMutableRawPointer.allocate(byteCount: (4 * side + 64) * side, alignment: 64)
    }

    deinit { base.deallocate() }
}

@discardableResult
public func CVPixelBufferCreate(
    _ allocator: CFAllocator?, _ width: Int, _ height: Int, _ format: UInt32, _ options: CFDictionary?,
    _ result: UnsafeMutablePointer<CVPixelBuffer?>
) -> CVReturn {
    guard width == height, format == kCVPixelFormatType_32BGRA else { return -6680 }
    result.pointee = CVPixelBuffer(side: width)
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferLockBaseAddress(_ buffer: CVPixelBuffer, _ flags: CVPixelBufferLockFlags) -> CVReturn {
    buffer.locks += 1
    return kCVReturnSuccess
}

@discardableResult
public func CVPixelBufferUnlockBaseAddress(_ buffer: CVPixelBuffer, _ flags: CVPixelBufferLockFlags) -> CVReturn {
    buffer.locks -= 1
    return kCVReturnSuccess
}

public func CVPixelBufferGetBaseAddress(_ buffer: CVPixelBuffer) -> UnsafeMutableRawPointer? { buffer.locks > 0 ? buffer.base : nil }
public func CVPixelBufferGetBytesPerRow(_ buffer: CVPixelBuffer) -> Int { buffer.rowBytes }
