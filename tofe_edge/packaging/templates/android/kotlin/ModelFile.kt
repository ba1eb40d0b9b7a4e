// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import android.content.Context
import android.os.Process
import java.io.File
import java.io.FileInputStream
import java.io.FileOutputStream
import java.io.IOException

/**
 * The model as a file: ExecuTorch maps a path into memory, and an asset has none.
 *
 * The copy's name has the model's checksum in it, so that a new version of the app never meets an old model. A copy is
 * checked every time, because a flipped bit in a weight changes answers and no runtime notices.
 */
internal object ModelFile {
    /** No copy takes as long: who wrote it was killed. */
    private const val ABANDONED_MS = 3_600_000L

    @Synchronized
    fun provide(context: Context): File {
        val folder = File(context.noBackupFilesDir, Model.COPIES)
        val file = File(folder, "${Model.SHA256}.pte")
        val longAgo = System.currentTimeMillis() - ABANDONED_MS
        folder.listFiles { one -> one.name.endsWith(".part") && one.lastModified() < longAgo }?.forEach { it.delete() }
        if (file.length() == Model.SIZE_BYTES && digest(file) == Model.SHA256) return file
        if (!folder.isDirectory && !folder.mkdirs()) {
            throw TofeException(TofeException.Reason.STORAGE, "the folder $folder cannot be made")
        }
        val part = File(folder, "${Model.SHA256}.${Process.myPid()}.part")
        try {
            val actual = copy(context, part)
            if (actual != Model.SHA256) {
                throw TofeException(TofeException.Reason.DAMAGED, "the model in the app is damaged: its checksum is $actual")
            }
            if (!part.renameTo(file)) throw TofeException(TofeException.Reason.STORAGE, "$part cannot be renamed to $file")
        } finally {
            part.delete()
        }
        // What earlier versions of the app left.
        folder.listFiles { one -> one.name.endsWith(".pte") && one != file }?.forEach { it.delete() }
        return file
    }

    private fun copy(context: Context, part: File): String =
        Assets.open(context, Model.FILE).use { from ->
            try {
                FileOutputStream(part).use { to -> sha256(from, to).also { to.fd.sync() } }
            } catch (error: IOException) {
                throw TofeException(TofeException.Reason.STORAGE, "the model cannot be copied to $part: ${error.message}", error)
            }
        }

    private fun digest(file: File): String? =
        try {
            FileInputStream(file).use { sha256(it) }
        } catch (error: IOException) {
            null // it cannot be read, so it is written anew
        }
}
