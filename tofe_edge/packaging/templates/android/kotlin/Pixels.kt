// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import android.graphics.Bitmap

/** An image as rows of packed `0xRRGGBB`. */
internal interface Pixels {
    val width: Int
    val height: Int

    /** Fills [into] with row [y]: [width] pixels. */
    fun row(y: Int, into: IntArray)
}

/** A bitmap on white, row by row: a photograph of 50 megapixels needs no second copy. */
internal class BitmapPixels private constructor(private val bitmap: Bitmap) : Pixels {
    override val width: Int = bitmap.width
    override val height: Int = bitmap.height

    override fun row(y: Int, into: IntArray) {
        bitmap.getPixels(into, 0, width, 0, y, width, 1)
        for (x in 0 until width) into[x] = onWhite(into[x])
    }

    companion object {
        fun of(bitmap: Bitmap): BitmapPixels {
            if (bitmap.isRecycled) throw TofeException(TofeException.Reason.INPUT, "the bitmap was recycled")
            return BitmapPixels(readable(bitmap))
        }

        /** Pixels of bitmaps in graphics memory (Config.HARDWARE) cannot be read; a copy's can. */
        private fun readable(bitmap: Bitmap): Bitmap {
            if (bitmap.config == Bitmap.Config.ARGB_8888) return bitmap
            return bitmap.copy(Bitmap.Config.ARGB_8888, false)
                ?: throw TofeException(TofeException.Reason.INPUT, "the bitmap's pixels cannot be read (${bitmap.config})")
        }

        private fun onWhite(color: Int): Int {
            val alpha = color ushr 24
            if (alpha == 255) return color and 0xFFFFFF
            return (blend(color shr 16 and 255, alpha) shl 16) or (blend(color shr 8 and 255, alpha) shl 8) or
                blend(color and 255, alpha)
        }

        /** `value * alpha + white * (1 - alpha)` of bytes, rounded. */
        private fun blend(value: Int, alpha: Int): Int {
            val sum = value * alpha + 255 * (255 - alpha) + 128
            return (sum + (sum shr 8)) shr 8
        }
    }
}
