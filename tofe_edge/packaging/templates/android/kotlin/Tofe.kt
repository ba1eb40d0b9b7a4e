// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import android.content.Context
import android.graphics.Bitmap
import android.os.Handler
import android.os.Looper
import java.io.Closeable
import java.util.concurrent.Executor

/**
 * @DOES@ with @NAME@.
 *
 * One instance holds one loaded model; its methods may be called from any thread. All @INSTANCE@s of an app, this model's
 * and others', wait for each other. [create] reads, checks and loads the model, which takes too long for the main thread, so
 * it refuses to run there; [createAsync] is for it.
 *
 * Everything that goes wrong is a [TofeException].
 */
class @CLASS@ private constructor(private val network: Network, private val context: Context) : Closeable {

    /** Which of the model's budgets this instance runs. */
    val budget: Budget
        get() = network.budget

@METHOD@
    /**
     * Runs the model on the images that it brings and compares with what it computed where it was converted: whether this
     * device, its ExecuTorch and this code give what was measured. Checks the files beside the model too. Takes four runs; call
     * it off the main thread.
     */
    @Throws(TofeException::class)
    fun selfTest(): SelfTestResult =
        failingAs(TofeException.Reason.RUNTIME, "the self-test cannot be run") { SelfTest.run(context, network) }

    /** Frees the model's memory. Calls after it throw; a second close does nothing. */
    @Throws(TofeException::class)
    override fun close() = network.close()

    /** What [createAsync] calls, on the main thread. Exactly one of the two, once. */
    interface Callback {
        fun onReady(@INSTANCE@: @CLASS@)

        fun onError(error: TofeException)
    }

    companion object {
        /**
         * Loads the model. The first call copies it out of the app's assets, later ones check that copy.
         *
         * @param budget which of the model's budgets to run.
         * @param threads that ExecuTorch computes with, in the whole app: the last [create] decides. 0 leaves it to ExecuTorch.
         */
        @JvmStatic
        @JvmOverloads
        @Throws(TofeException::class)
        fun create(context: Context, budget: Budget = Budget.DEFAULT, threads: Int = 0): @CLASS@ {
            if (Looper.myLooper() == Looper.getMainLooper()) {
                throw TofeException(
                    TofeException.Reason.MAIN_THREAD,
                    "create reads and loads a model, which would freeze the app; call it on another thread, or createAsync",
                )
            }
            if (threads < 0) throw TofeException(TofeException.Reason.INPUT, "threads must not be negative, but is $threads")
            return failingAs(TofeException.Reason.RUNTIME, "the model cannot be loaded") {
                val application = context.applicationContext ?: context
                @CLASS@(Network.load(application, budget, threads), application)
            }
        }

        /**
         * Loads the model on [executor], or on a thread made for it, and calls back on the main thread: once, whatever happens.
         */
        @JvmStatic
        @JvmOverloads
        fun createAsync(
            context: Context,
            callback: Callback,
            budget: Budget = Budget.DEFAULT,
            threads: Int = 0,
            executor: Executor? = null,
        ) {
            val main = Handler(Looper.getMainLooper())
            val fail = { error: Throwable ->
                val told = error as? TofeException
                    ?: TofeException(TofeException.Reason.RUNTIME, "the model cannot be loaded: $error", error)
                main.post { callback.onError(told) }
            }
            val load = Runnable {
                try {
                    val @INSTANCE@ = create(context, budget, threads)
                    main.post { callback.onReady(@INSTANCE@) }
                } catch (error: Throwable) {
                    fail(error)
                }
            }
            try {
                (executor ?: Executor { Thread(it, "tofe").start() }).execute(load)
            } catch (error: Throwable) {
                fail(error) // it did not take the task: it was shut down, is full, or there is no memory for a thread
            }
        }
    }
}
