// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min

/**
 * Antialiased resizing of 8-bit images with the numbers of Pillow 13, which the model was measured with: filter weights in
 * doubles, rounded to 22 fractional bits, bytes between the two passes, and the passes in the order that Pillow takes.
 */
internal object PillowResize {
    private const val FRACTION_BITS = 22
    private const val HALF = 1 shl (FRACTION_BITS - 1)
    const val CHANNELS = 3

    /** A filter: how far it reaches at scale 1, and its value there. */
    class Filter(val support: Double, val weight: (Double) -> Double)

    val BILINEAR = Filter(1.0) { if (abs(it) < 1.0) 1.0 - abs(it) else 0.0 }

    val BICUBIC = Filter(2.0) {
        val a = -0.5
        val x = abs(it)
        when {
            x < 1.0 -> ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
            x < 2.0 -> (((x - 5.0) * x + 8.0) * x - 4.0) * a
            else -> 0.0
        }
    }

    /** For each position of the output: the first input position that counts, and the weights from there on. */
    private class Weights(val first: IntArray, val values: Array<IntArray>) {
        val begin: Int = first.min()
        val end: Int = first.indices.maxOf { first[it] + values[it].size }
    }

    /**
     * A window of the resized image.
     *
     * @param width of the whole resized image, and [height]; if they are the source's, pixels are only copied.
     * @param left column where the window begins, and [top] its row.
     * @param size side of the window.
     * @return bytes as ints, `size x size x 3`, rows first.
     */
    fun window(source: Pixels, width: Int, height: Int, filter: Filter, left: Int, top: Int, size: Int): IntArray {
        val across = weights(source.width, width, filter, left, size)
        val down = weights(source.height, height, filter, top, size)
        // As Pillow does since version 13: rows first if that takes many more of them away than columns.
        val rowsFirst = height < source.height && source.height - height > 2L * (source.width - width)
        return if (rowsFirst) rowsThenColumns(source, across, down, size) else columnsThenRows(source, across, down, size)
    }

    private fun columnsThenRows(source: Pixels, across: Weights, down: Weights, size: Int): IntArray {
        val row = IntArray(source.width)
        val first = down.begin
        val narrowed = Array(down.end - first) {
            source.row(first + it, row)
            narrow(row, across, size)
        }
        val line = size * CHANNELS
        val result = IntArray(size * line)
        for (y in 0 until size) {
            val weights = down.values[y]
            val from = down.first[y] - first
            for (x in 0 until line) {
                var sum = HALF
                for (k in weights.indices) sum += (narrowed[from + k][x].toInt() and 255) * weights[k]
                result[y * line + x] = toByte(sum)
            }
        }
        return result
    }

    private fun rowsThenColumns(source: Pixels, across: Weights, down: Weights, size: Int): IntArray {
        val row = IntArray(source.width)
        // Every row is read once and added to all rows of the result that it has a weight in.
        val sums = Array(size) { IntArray(source.width * CHANNELS) { HALF } }
        for (y in down.begin until down.end) {
            source.row(y, row)
            for (to in 0 until size) {
                val k = y - down.first[to]
                if (k in down.values[to].indices) add(row, down.values[to][k], sums[to])
            }
        }
        val result = IntArray(size * size * CHANNELS)
        for (y in 0 until size) {
            for (x in row.indices) {
                val at = x * CHANNELS
                row[x] = (toByte(sums[y][at]) shl 16) or (toByte(sums[y][at + 1]) shl 8) or toByte(sums[y][at + 2])
            }
            val narrowed = narrow(row, across, size)
            for (x in narrowed.indices) result[y * narrowed.size + x] = narrowed[x].toInt() and 255
        }
        return result
    }

    private fun add(row: IntArray, weight: Int, sums: IntArray) {
        for (x in row.indices) {
            val at = x * CHANNELS
            sums[at] += (row[x] shr 16 and 255) * weight
            sums[at + 1] += (row[x] shr 8 and 255) * weight
            sums[at + 2] += (row[x] and 255) * weight
        }
    }

    private fun narrow(row: IntArray, across: Weights, size: Int): ByteArray {
        val result = ByteArray(size * CHANNELS)
        for (x in 0 until size) {
            val first = across.first[x]
            val weights = across.values[x]
            var red = HALF
            var green = HALF
            var blue = HALF
            for (k in weights.indices) {
                val color = row[first + k]
                red += (color shr 16 and 255) * weights[k]
                green += (color shr 8 and 255) * weights[k]
                blue += (color and 255) * weights[k]
            }
            result[x * CHANNELS] = toByte(red).toByte()
            result[x * CHANNELS + 1] = toByte(green).toByte()
            result[x * CHANNELS + 2] = toByte(blue).toByte()
        }
        return result
    }

    private fun toByte(sum: Int): Int = min(255, max(0, sum shr FRACTION_BITS))

    private fun weights(from: Int, to: Int, filter: Filter, begin: Int, count: Int): Weights {
        // Pillow leaves a pass out that changes no size; a single weight of one is that.
        if (from == to) return Weights(IntArray(count) { begin + it }, Array(count) { intArrayOf(1 shl FRACTION_BITS) })
        val scale = from.toDouble() / to
        val stretch = max(scale, 1.0)
        val support = filter.support * stretch
        val first = IntArray(count)
        val values = Array(count) {
            val center = (begin + it + 0.5) * scale
            val low = max(0, (center - support + 0.5).toInt())
            val high = min(from, (center + support + 0.5).toInt())
            first[it] = low
            fixed(DoubleArray(high - low) { k -> filter.weight((k + low - center + 0.5) * (1.0 / stretch)) })
        }
        return Weights(first, values)
    }

    /** Weights of sum one, as whole numbers of 2^-22, rounded away from zero at a half. */
    private fun fixed(weights: DoubleArray): IntArray {
        var sum = 0.0
        for (weight in weights) sum += weight
        return IntArray(weights.size) {
            val weight = if (sum != 0.0) weights[it] / sum else weights[it]
            (weight * (1 shl FRACTION_BITS) + if (weight < 0) -0.5 else 0.5).toInt()
        }
    }
}
