// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import java.util.Locale
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/**
 * What [@CLASS@.selfTest] found.
 *
 * @property snrDb how close the @OUTPUT@ @IS_ARE@, in decibels; infinite if they are the same.
 * @property keptOverlap per stage, the share of tokens kept here that were kept where the model was converted.
 * @property failures what is out of its bounds, in words; empty when [passed].
 */
class SelfTestResult(val snrDb: Double, val psnrDb: Double, val keptOverlap: List<Double>, val failures: List<String>) {
    val passed: Boolean
        get() = failures.isEmpty()

    override fun toString(): String =
        if (passed) String.format(Locale.ROOT, "passed, %.1f dB", snrDb) else "FAILED: ${failures.joinToString("; ")}"
}

/** Replays the golden vectors of one budget, by the same gates as `tofe-edge run --self-test`. */
internal object SelfTest {
    class Golden(
        val file: String,
        val values: FloatArray,
        /** The patches whose features are stored; empty if all numbers are. */
        val tokens: List<Int>,
        val kept: List<Set<Int>>,
        val nearTie: Boolean,
    ) {
        /** Of a run's numbers those that are stored. */
        fun stored(all: FloatArray): FloatArray {
            if (tokens.isEmpty()) return all
            return FloatArray(values.size) { all[tokens[it / Model.VECTOR_SIZE] * Model.VECTOR_SIZE + it % Model.VECTOR_SIZE] }
        }
    }

    fun run(context: Context, network: Network): SelfTestResult {
        for (name in Model.SUMS.keys) Assets.bytes(context, name)
        val all = read(Assets.text(context, "${Model.GOLDEN}/golden.json"), network.budget)
        // If either of two tokens may rightly be kept, the input says nothing; if all are so, they must do.
        val clear = all.filterNot { Model.SKIPS_NEAR_TIES && it.nearTie }.ifEmpty { all }
        val distance = OutputDistance()
        val overlaps = List(network.budget.keptTokens.size) { ArrayList<Double>() }
        for (vector in clear) {
            val outputs = network.run(Preprocessing.normalize(square(context, vector.file)))
            distance.add(vector.values, vector.stored(outputs.values))
            val kept = keptPositions(outputs.selections, network.budget.keptTokens)
            for ((stage, expected) in vector.kept.withIndex()) {
                overlaps[stage].add(expected.count { it in kept[stage] }.toDouble() / maxOf(1, expected.size))
            }
        }
        return judge(distance, overlaps.map { it.average() })
    }

    /** A gate that a NaN passes would pass where nothing was measured: so each asks for at least, not for less than. */
    fun judge(distance: OutputDistance, overlaps: List<Double>): SelfTestResult {
        val failures = ArrayList<String>()
        if (!(distance.snr >= Model.MIN_SNR_DB)) failures.add(under("${Model.OUTPUT} SNR", distance.snr, Model.MIN_SNR_DB))
        if (!(distance.psnr >= Model.MIN_PSNR_DB)) failures.add(under("${Model.OUTPUT} PSNR", distance.psnr, Model.MIN_PSNR_DB))
        for ((stage, overlap) in overlaps.withIndex()) {
            if (!(overlap >= Model.MIN_KEPT_OVERLAP - 1e-9)) {
                failures.add("kept tokens of stage ${stage + 1}: $overlap is under ${Model.MIN_KEPT_OVERLAP}")
            }
        }
        return SelfTestResult(distance.snr, distance.psnr, overlaps, failures)
    }

    private fun under(what: String, actual: Double, expected: Double) =
        String.format(Locale.ROOT, "%s %.1f dB is under %.0f dB", what, actual, expected)

    /** The vectors of a budget, at least one. */
    fun read(text: String, budget: Budget): List<Golden> =
        try {
            val document = JSONObject(text)
            if (document.getString("artifact_sha256") != Model.SHA256) throw JSONException("it is another model's")
            objects(document.getJSONArray("vectors"))
                .filter { it.getString("method") == budget.method }
                .map { vector(it, budget) }
                .ifEmpty { throw JSONException("it has no vectors of ${budget.method}") }
        } catch (error: JSONException) {
            throw TofeException(TofeException.Reason.DAMAGED, "golden.json cannot be used: ${error.message}", error)
        }

    private fun vector(one: JSONObject, budget: Budget): Golden {
        val values = one.getJSONArray(Model.OUTPUT)
        val tokens = if (Model.OUTPUT == "features") integers(one.getJSONArray("tokens")) else emptyList()
        val kept = one.getJSONArray("kept")
        val size = if (tokens.isEmpty()) Model.VALUES else tokens.size * Model.VECTOR_SIZE
        if (values.length() != size || kept.length() != budget.keptTokens.size || tokens.any { it !in 0 until Model.PATCH_TOKENS }) {
            throw JSONException("a vector has ${values.length()} ${Model.OUTPUT} and ${kept.length()} stages")
        }
        return Golden(
            one.getString("file"),
            FloatArray(values.length()) { values.getDouble(it).toFloat() },
            tokens,
            List(kept.length()) { stage -> integers(kept.getJSONArray(stage)).toSet() },
            one.getBoolean("near_tie"),
        )
    }

    private fun integers(list: JSONArray): List<Int> = (0 until list.length()).map(list::getInt)

    private fun objects(list: JSONArray): List<JSONObject> = (0 until list.length()).map(list::getJSONObject)

    /** A golden image as it is: `SIZE x SIZE x 3`. */
    private fun square(context: Context, file: String): IntArray {
        val options = BitmapFactory.Options()
        options.inPreferredConfig = Bitmap.Config.ARGB_8888
        options.inScaled = false
        val png = Assets.bytes(context, "${Model.GOLDEN}/$file")
        val bitmap = BitmapFactory.decodeStream(png.inputStream(), null, options)
        if (bitmap == null || bitmap.width != Model.IMAGE_SIZE || bitmap.height != Model.IMAGE_SIZE) {
            throw TofeException(TofeException.Reason.DAMAGED, "the golden image $file cannot be decoded to what it was")
        }
        val pixels = BitmapPixels.of(bitmap)
        val row = IntArray(pixels.width)
        return IntArray(pixels.width * pixels.height * PillowResize.CHANNELS).also { square ->
            for (y in 0 until pixels.height) {
                pixels.row(y, row)
                for (x in 0 until pixels.width) {
                    val at = (y * pixels.width + x) * PillowResize.CHANNELS
                    square[at] = row[x] shr 16 and 255
                    square[at + 1] = row[x] shr 8 and 255
                    square[at + 2] = row[x] and 255
                }
            }
        }
    }
}
