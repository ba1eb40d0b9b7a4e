// SPDX-License-Identifier: Apache-2.0
// A sample: a photograph as a bitmap. Copy it into your app and adapt the package.
package com.example.@CALL@

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.ImageDecoder
import android.net.Uri

/** A photograph upright, and no larger than a phone's memory bears. Needs Android 9: nothing before it turns a photograph. */
object Photograph {
    private const val MAX_PIXELS = 12_000_000L

    /** Takes its time: not for the main thread. Throws IOException or SecurityException if it cannot be read. */
    fun read(resolver: ContentResolver, uri: Uri): Bitmap =
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(resolver, uri)) { decoder, info, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            decoder.setTargetSampleSize(sampleSize(info.size.width, info.size.height))
        }

    /** The power of two that leaves at most [MAX_PIXELS]. */
    fun sampleSize(width: Int, height: Int): Int {
        var size = 1
        while (width.toLong() / size * (height / size) > MAX_PIXELS) size *= 2
        return size
    }
}
