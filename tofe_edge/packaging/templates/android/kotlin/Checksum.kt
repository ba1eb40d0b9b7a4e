// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import java.io.InputStream
import java.io.OutputStream
import java.security.MessageDigest

private const val PIECE = 1 shl 16

/** SHA-256 in hexadecimal of all that [from] still has; it is written [to] on the way. */
internal fun sha256(from: InputStream, to: OutputStream? = null): String {
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
