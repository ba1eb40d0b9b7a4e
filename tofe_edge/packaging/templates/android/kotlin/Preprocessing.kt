// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import kotlin.math.max
import kotlin.math.min

/** From an image to the model's input, equal to the reference in every bit; the numbers are those of `preprocessing.json`. */
internal object Preprocessing {
    private const val SIZE = Model.IMAGE_SIZE
    private const val MAX_PIXELS = 100_000_000L

    /** `3 x SIZE x SIZE` floats, channels first: resized, its centre cut out, normalised. */
    fun prepare(image: Pixels): FloatArray = normalize(resizeAndCrop(image))

    /** The square that the model sees: `SIZE x SIZE x 3` bytes as ints. */
    fun resizeAndCrop(image: Pixels): IntArray {
        var width = image.width
        var height = image.height
        if (Model.RESIZES_SHORT_SIDE) {
            val short = Model.SHORT_SIDE
            val long = (short.toLong() * max(width, height) / min(width, height).toDouble()).toLong()
            if (short * long > MAX_PIXELS) throw bad(image, "too narrow to resize its short side to $short")
            if (width <= height) {
                width = short
                height = long.toInt()
            } else {
                width = long.toInt()
                height = short
            }
        }
        if (width < SIZE || height < SIZE) throw bad(image, "smaller than $SIZE x $SIZE")
        // Halves to the even number, as the reference rounds.
        val left = Math.rint((width - SIZE) / 2.0).toInt()
        val top = Math.rint((height - SIZE) / 2.0).toInt()
        val filter = if (Model.BICUBIC) PillowResize.BICUBIC else PillowResize.BILINEAR
        return PillowResize.window(image, width, height, filter, left, top, SIZE)
    }

    /** `(value / 255 - mean) / std`, in single precision and in this order. */
    fun normalize(square: IntArray): FloatArray {
        val plane = SIZE * SIZE
        val result = FloatArray(PillowResize.CHANNELS * plane)
        for (channel in 0 until PillowResize.CHANNELS) {
            val mean = Model.MEAN[channel]
            val std = Model.STD[channel]
            for (pixel in 0 until plane) {
                val value = square[pixel * PillowResize.CHANNELS + channel].toFloat() / 255f
                result[channel * plane + pixel] = (value - mean) / std
            }
        }
        return result
    }

    private fun bad(image: Pixels, what: String) =
        TofeException(TofeException.Reason.INPUT, "the bitmap of ${image.width} x ${image.height} pixels is $what")
}
