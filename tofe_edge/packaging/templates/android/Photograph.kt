// SPDX-License-Identifier: Apache-2.0
// A sample: a photograph as a bitmap to classify. Copy it into your app and adapt the package.
package com.example.classify

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.ImageDecoder
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import android.os.Build
import java.io.File
import java.io.IOException

/** A photograph upright, and no larger than a phone's memory bears. */
object Photograph {
    private const val MAX_PIXELS = 12_000_000L

    /** Takes its time: not for the main thread. Throws IOException or SecurityException where it cannot be read. */
    fun read(resolver: ContentResolver, uri: Uri, cache: File): Bitmap =
        if (Build.VERSION.SDK_INT >= 28) decode(resolver, uri) else decodeCopy(resolver, uri, cache)

    private fun decode(resolver: ContentResolver, uri: Uri): Bitmap =
        ImageDecoder.decodeBitmap(ImageDecoder.createSource(resolver, uri)) { decoder, info, _ ->
            decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
            decoder.setTargetSampleSize(sampleSize(info.size.width, info.size.height))
        }

    /** Before Android 9 nothing turns a photograph upright, and before 7 its orientation can be read from a file alone. */
    private fun decodeCopy(resolver: ContentResolver, uri: Uri, cache: File): Bitmap {
        val copy = File.createTempFile("photograph", null, cache)
        try {
            val stream = resolver.openInputStream(uri) ?: throw IOException("the photograph cannot be opened")
            stream.use { from -> copy.outputStream().use { from.copyTo(it) } }
            val options = BitmapFactory.Options()
            options.inJustDecodeBounds = true
            BitmapFactory.decodeFile(copy.path, options)
            options.inJustDecodeBounds = false
            options.inSampleSize = sampleSize(options.outWidth, options.outHeight)
            val bitmap = BitmapFactory.decodeFile(copy.path, options) ?: throw IOException("this is not an image")
            val turn = upright(ExifInterface(copy.path).getAttributeInt(ExifInterface.TAG_ORIENTATION, 1))
            return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, turn, true)
        } finally {
            copy.delete()
        }
    }

    /** The power of two that leaves at most [MAX_PIXELS]. */
    fun sampleSize(width: Int, height: Int): Int {
        var size = 1
        while (width.toLong() / size * (height / size) > MAX_PIXELS) size *= 2
        return size
    }

    /** What undoes an EXIF orientation: first the mirror, then the turn. */
    private fun upright(orientation: Int): Matrix {
        val matrix = Matrix()
        when (orientation) {
            ExifInterface.ORIENTATION_FLIP_HORIZONTAL, ExifInterface.ORIENTATION_TRANSPOSE,
            ExifInterface.ORIENTATION_TRANSVERSE -> matrix.postScale(-1f, 1f)
            ExifInterface.ORIENTATION_FLIP_VERTICAL -> matrix.postScale(1f, -1f)
        }
        when (orientation) {
            ExifInterface.ORIENTATION_ROTATE_90, ExifInterface.ORIENTATION_TRANSVERSE -> matrix.postRotate(90f)
            ExifInterface.ORIENTATION_ROTATE_180 -> matrix.postRotate(180f)
            ExifInterface.ORIENTATION_ROTATE_270, ExifInterface.ORIENTATION_TRANSPOSE -> matrix.postRotate(270f)
        }
        return matrix
    }
}
