// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

/** Whatever goes wrong in this package. [reason] is for programs, the message for people. */
class TofeException @JvmOverloads constructor(val reason: Reason, message: String, cause: Throwable? = null) :
    Exception(message, cause) {

    enum class Reason {
        /** [@CLASS@.create] was called on the main thread. */
        MAIN_THREAD,

        /** An argument or a bitmap cannot be used. */
        INPUT,

        /** The model or a file beside it is missing or damaged. Installing the app again helps. */
        DAMAGED,

        /** The device's storage cannot be written, or is full. */
        STORAGE,

        /** ExecuTorch cannot load or run the model. */
        RUNTIME,

        /** The @INSTANCE@ was closed. */
        CLOSED,
    }
}

/** Does [action]; what it throws other than a [TofeException] becomes one, with [reason] and [what] failed. */
internal inline fun <T> failingAs(reason: TofeException.Reason, what: String, action: () -> T): T =
    try {
        action()
    } catch (error: Throwable) {
        throw error as? TofeException ?: TofeException(reason, "$what: ${error.message ?: error.javaClass.name}", error)
    }
