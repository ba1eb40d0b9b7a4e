// SPDX-License-Identifier: Apache-2.0
// A sample for Android 9 and later: pick a photograph, see its @SEEN@. Copy it into your app and adapt the package.
package com.example.@CALL@

import @PACKAGE@.@CLASS@
import @PACKAGE@.TofeException
import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView
import java.io.IOException
import java.util.concurrent.Executors

class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor()
    private var @INSTANCE@: @CLASS@? = null
    private lateinit var text: TextView

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        text = TextView(this)
        val button = Button(this)
        button.text = "Choose a photograph"
        button.setOnClickListener { startActivityForResult(Intent(Intent.ACTION_GET_CONTENT).setType("image/*"), PICK) }
        val layout = LinearLayout(this)
        layout.orientation = LinearLayout.VERTICAL
        layout.addView(button)
        layout.addView(text)
        setContentView(layout)

        @CLASS@.createAsync(this, object : @CLASS@.Callback {
            override fun onReady(@INSTANCE@: @CLASS@) {
                if (isDestroyed) {
                    @INSTANCE@.close()
                    return
                }
                this@MainActivity.@INSTANCE@ = @INSTANCE@
                work { "Self-test: ${@INSTANCE@.selfTest()}" }
            }

            override fun onError(error: TofeException) {
                text.text = "${error.reason}: ${error.message}"
            }
        })
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        super.onActivityResult(request, result, data)
        val image = data?.data ?: return
        val ready = @INSTANCE@ ?: return
        work {
@SAMPLE@        }
    }

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { @INSTANCE@?.close() }
        worker.shutdown()
    }

    private fun work(task: () -> String) = worker.execute {
        val line =
            try {
                task()
            } catch (error: TofeException) {
                "${error.reason}: ${error.message}"
            } catch (error: IOException) {
                "The photograph cannot be read: ${error.message}"
            } catch (error: SecurityException) {
                "The photograph may not be read: ${error.message}"
            }
        runOnUiThread { text.text = line }
    }

    private companion object {
        const val PICK = 1
    }
}
