// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.log10
import kotlin.math.max

internal class Ranked(val index: Int, val probability: Double)

/** The [count] likeliest classes, best first; of equal ones the lower index first. */
internal fun topClasses(logits: FloatArray, count: Int): List<Ranked> {
    val highest = logits.max().toDouble()
    val powers = DoubleArray(logits.size) { exp(logits[it] - highest) }
    val sum = powers.sum()
    return logits.indices.sortedByDescending { powers[it] }.take(count).map { Ranked(it, powers[it] / sum) }
}

/** The same numbers; a [TofeException] if one of them is infinite or not a number. */
internal fun finite(values: FloatArray): FloatArray {
    if (values.any { it.isNaN() || it.isInfinite() }) {
        throw TofeException(TofeException.Reason.RUNTIME, "the model gave numbers that are infinite or not numbers")
    }
    return values
}

/** Positions in the image of the tokens that each stage keeps: selection s indexes what selection s - 1 put in order. */
internal fun keptPositions(selections: List<LongArray>, kept: List<Int>): List<Set<Int>> {
    var positions = IntArray(Model.PATCH_TOKENS) { it }
    return selections.zip(kept) { selection, count ->
        val wrong = selection.firstOrNull { it !in positions.indices }
        if (selection.size < count || wrong != null) {
            val said = if (wrong == null) "${selection.size} tokens where it keeps $count" else "token $wrong of ${positions.size}"
            throw TofeException(TofeException.Reason.RUNTIME, "the model selected $said")
        }
        positions = IntArray(selection.size) { positions[selection[it].toInt()] }
        positions.take(count).toSet()
    }
}

/** Signal, noise and peak of what the model gives, gathered over images. */
internal class OutputDistance {
    private var signal = 0.0
    private var noise = 0.0
    private var peak = 0.0
    private var count = 0
    private var finite = true

    fun add(expected: FloatArray, actual: FloatArray) {
        for (i in expected.indices) {
            val difference = expected[i].toDouble() - actual[i]
            signal += expected[i].toDouble() * expected[i]
            noise += difference * difference
            peak = max(peak, abs(expected[i].toDouble()))
            finite = finite && !actual[i].isNaN() && !actual[i].isInfinite()
        }
        count += expected.size
    }

    /** In decibels: infinite if nothing differs, minus infinity if one is not a number, NaN if there are none. */
    val snr: Double
        get() =
            when {
                count == 0 -> Double.NaN
                !finite -> Double.NEGATIVE_INFINITY
                noise == 0.0 -> Double.POSITIVE_INFINITY
                signal == 0.0 -> Double.NEGATIVE_INFINITY
                else -> 10 * log10(signal / noise)
            }

    /** The same with the square of the largest number in place of their mean power. */
    val psnr: Double
        get() = if (signal == 0.0) snr else snr + 20 * log10(peak) - 10 * log10(signal / count)
}
