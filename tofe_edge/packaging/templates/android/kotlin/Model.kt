// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

/** One of the model's budgets: the same weights, fewer or more tokens. */
enum class Budget(
    /** Name of the method in the program. */
    @JvmField val method: String,
    /** 1e9 multiply-accumulates of one image. */
    @JvmField val gmacs: Double,
    /** Patch tokens kept per stage; empty for a dense model. */
    @JvmField val keptTokens: List<Int>,
) {
@BUDGETS@;

    companion object {
        /** What the model was converted for. */
        @JvmField val DEFAULT: Budget = @DEFAULT_BUDGET@
    }
}

/** What `@NAME@.json` says, written here by tofe-edge when it packaged the model. */
internal object Model {
    /** The files of this package among the assets of the app, which all its libraries share. */
    const val FOLDER = "@FOLDER@"
    /** Where the copies of the model are, those of later versions of the app too. */
    const val COPIES = "tofe/@PACKAGE@"
    const val FILE = "@NAME@.pte"
    const val GOLDEN = "@NAME@.golden"
    const val LABELS = "labels.txt"

    const val SHA256 = "@SHA256@"
    const val SIZE_BYTES = @SIZE_BYTES@L
    /** SHA-256 of the files beside the model. */
    @JvmField val SUMS: Map<String, String> =
        mapOf(
@SUMS@
        )
    const val CLASSES = @CLASSES@
    /** What the model gives, its numbers for one image, and how many of them belong to one vector. */
    const val OUTPUT = "@OUTPUT@"
    const val VALUES = @VALUES@
    const val VECTOR_SIZE = @VECTOR_SIZE@
    const val BATCH = @BATCH@
    const val PATCH_TOKENS = @PATCH_TOKENS@
    const val SELECTION_IN_FLOATS = @SELECTION_IN_FLOATS@

    const val IMAGE_SIZE = @IMAGE_SIZE@
    const val RESIZES_SHORT_SIDE = @RESIZES_SHORT_SIDE@
    const val SHORT_SIDE = @SHORT_SIDE@
    const val BICUBIC = @BICUBIC@
    /** As bits, which no reading of decimals can change: @MEAN_TEXT@. */
    @JvmField val MEAN = floatArrayOf(@MEAN@)
    /** @STD_TEXT@. */
    @JvmField val STD = floatArrayOf(@STD@)

    /** The gates of the self-test, by the model's precision: @PRECISION@. */
    const val MIN_SNR_DB = @MIN_SNR_DB@
    const val MIN_PSNR_DB = @MIN_PSNR_DB@
    const val MIN_KEPT_OVERLAP = @MIN_KEPT_OVERLAP@
    const val SKIPS_NEAR_TIES = @SKIPS_NEAR_TIES@
}
