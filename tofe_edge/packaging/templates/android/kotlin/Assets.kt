// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import android.content.Context
import java.io.IOException
import java.io.InputStream

/** The files of this package among the app's assets. */
internal object Assets {
    fun open(context: Context, name: String): InputStream =
        try {
            context.assets.open("${Model.FOLDER}/$name")
        } catch (error: IOException) {
            throw TofeException(TofeException.Reason.DAMAGED, "the app lacks the asset ${Model.FOLDER}/$name", error)
        }

    /** A small file, as it was when the model was packaged. */
    fun bytes(context: Context, name: String): ByteArray {
        val content =
            try {
                open(context, name).use { it.readBytes() }
            } catch (error: IOException) {
                throw TofeException(TofeException.Reason.DAMAGED, "the asset ${Model.FOLDER}/$name cannot be read", error)
            }
        if (sha256(content.inputStream()) != Model.SUMS[name]) {
            throw TofeException(TofeException.Reason.DAMAGED, "the asset ${Model.FOLDER}/$name is damaged: another checksum")
        }
        return content
    }

    fun text(context: Context, name: String): String = bytes(context, name).toString(Charsets.UTF_8)
}
