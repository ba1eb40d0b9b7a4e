// SPDX-License-Identifier: Apache-2.0
package @PACKAGE@

import android.content.Context
import java.io.Closeable
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** What one run gives: numbers of the model, such as one per class, and per stage the tokens in the order of their selection. */
internal class Outputs(val values: FloatArray, val selections: List<LongArray>)

/**
 * The loaded model: prepared pixels in, @OUTPUT@ out. The only file that knows ExecuTorch.
 *
 * Every load makes ExecuTorch's one pool of threads anew, under whatever model is running, and outputs lie in memory that
 * the next run overwrites and [close] frees. So loading, running up to the copy of the outputs, and freeing wait for each
 * other in the whole app: by the lock of a class that all packaged models in it share.
 */
internal class Network private constructor(private val module: Module, val labels: List<String>, val budget: Budget) : Closeable {

    private var closed = false

    /** Runs one image: `3 x SIZE x SIZE` values, channels first. */
    fun run(pixels: FloatArray): Outputs =
        failingAs(TofeException.Reason.RUNTIME, "ExecuTorch failed to run the model") {
            val side = Model.IMAGE_SIZE.toLong()
            val batch = FloatArray(Model.BATCH * pixels.size) { pixels[it % pixels.size] }
            val input = EValue.from(Tensor.fromBlob(batch, longArrayOf(Model.BATCH.toLong(), 3, side, side)))
            alone {
                if (closed) throw TofeException(TofeException.Reason.CLOSED, "the @INSTANCE@ was closed")
                copyOf(module.execute(budget.method, input).map { it.toTensor() })
            }
        }

    private fun copyOf(outputs: List<Tensor>): Outputs {
        if (outputs.size != 1 + budget.keptTokens.size) {
            throw TofeException(TofeException.Reason.RUNTIME, "the model has ${outputs.size} outputs, not what it should")
        }
        return Outputs(valuesOf(outputs[0]), outputs.drop(1).map(::rowOf))
    }

    private fun valuesOf(tensor: Tensor): FloatArray {
        val values = tensor.dataAsFloatArray
        if (values.size != Model.BATCH * Model.VALUES) {
            throw TofeException(TofeException.Reason.RUNTIME, "the model has ${values.size} ${Model.OUTPUT} where it should have ${Model.BATCH * Model.VALUES}")
        }
        return values.copyOf(Model.VALUES)
    }

    /** The first image's selection: indices, or whole numbers as floats if the model selects by ranks. */
    private fun rowOf(tensor: Tensor): LongArray {
        val all =
            if (Model.SELECTION_IN_FLOATS) tensor.dataAsFloatArray.map { it.toLong() }.toLongArray() else tensor.dataAsLongArray
        return all.copyOf(all.size / Model.BATCH)
    }

    override fun close() =
        failingAs(TofeException.Reason.RUNTIME, "ExecuTorch failed to free the model") {
            alone {
                if (!closed) {
                    closed = true
                    module.destroy()
                }
            }
        }

    companion object {
        fun load(context: Context, budget: Budget, threads: Int): Network {
@LABELS_KT@            val file = ModelFile.provide(context)
            return Network(open(file, threads), labels, budget)
        }

        private fun open(file: File, threads: Int): Module =
            failingAs(TofeException.Reason.RUNTIME, "ExecuTorch cannot load the model") {
                try {
                    alone { Module.load(file.path, Module.LOAD_MODE_MMAP, threads) }
                } catch (error: LinkageError) {
                    throw TofeException(
                        TofeException.Reason.RUNTIME,
                        "ExecuTorch's native library is missing for this device (it has arm64-v8a and x86_64): ${error.message}",
                        error,
                    )
                }
            }

        private inline fun <T> alone(action: () -> T): T = synchronized(Module::class.java, action)
    }
}
