// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import android.content.Context
import android.os.Process
import java.io.File
import java.io.FileInputStream
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream
import java.security.MessageDigest

/**
 * The model as a file: ExecuTorch maps a path into memory, and an asset has none.
 *
 * The copy's name has the model's checksum in it, so that a new version of the app never meets an old model. A copy is
 * checked every time, because a flipped bit in a weight changes answers and no runtime notices.
 */
internal object ModelFile {
    private const val PIECE = 1 shl 16

    @Synchronized
    fun provide(context: Context): File {
        val folder = File(context.noBackupFilesDir, Model.FOLDER)
        val file = File(folder, "${Model.SHA256}.pte")
        if (file.length() == Model.SIZE_BYTES && digest(file) == Model.SHA256) return file
        if (!folder.isDirectory && !folder.mkdirs()) {
            throw TofeException(TofeException.Reason.STORAGE, "the folder $folder cannot be made")
        }
        val part = File(folder, "${Model.SHA256}.${Process.myPid()}.part")
        try {
            val found = copy(context, part)
            if (found != Model.SHA256) {
                throw TofeException(TofeException.Reason.DAMAGED, "the model in the app is damaged: its checksum is $found")
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
                FileOutputStream(part).use { to ->
                    val digest = digest(from, to)
                    to.fd.sync()
                    digest
                }
            } catch (error: IOException) {
                throw TofeException(TofeException.Reason.STORAGE, "the model cannot be copied to $part: ${error.message}", error)
            }
        }

    private fun digest(file: File): String? =
        try {
            FileInputStream(file).use { digest(it, null) }
        } catch (error: IOException) {
            null // it cannot be read, so it is written anew
        }

    private fun digest(from: InputStream, to: OutputStream?): String {
        val digest = MessageDigest.getInstance("SHA-256")
        val piece = ByteArray(PIECE)
        while (true) {
            val count = from.read(piece)
            if (count < 0) break
            digest.update(piece, 0, count)
            to?.write(piece, 0, count)
        }
        return digest.digest().joinToString("") { "%02x".format(it) }
    }
}
